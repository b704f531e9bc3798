package state

import (
	"cmp"
	"database/sql/driver"
	"time"

	"github.com/google/uuid"
)

// Engines of a run. The engine is what a run is, not where it is executed (architecture.md).
const (
	// EKSEngine marks a container job, on any kind of cluster.
	EKSEngine = "eks"
	// EKSSparkEngine marks a Spark job.
	EKSSparkEngine = "eks-spark"
)

// Engines lists every engine.
var Engines = []string{EKSEngine, EKSSparkEngine}

// Node lifecycles of a run.
const (
	SpotLifecycle     = "spot"
	OndemandLifecycle = "ondemand"
)

// NodeLifecycles lists every node lifecycle.
var NodeLifecycles = []string{SpotLifecycle, OndemandLifecycle}

// ExecutableType is the kind of resource that a run was made from.
type ExecutableType string

const (
	ExecutableTypeDefinition ExecutableType = "task_definition"
	ExecutableTypeTemplate   ExecutableType = "template"
)

// DefaultTaskType is the task_type of every run.
const DefaultTaskType = "task"

// TemplateGroupName is the group_name of every run of a template.
const TemplateGroupName = "template_group_name"

// ParentRunEnv is the environment variable that makes a run the child of another.
const ParentRunEnv = "PARENT_FLOTILLA_RUN_ID"

// Reasons that Flotilla itself gives to a run's end.
const (
	// ReasonOOMKilled is the reason that Kubernetes gives for a container killed for memory.
	ReasonOOMKilled = "OOMKilled"
	// ReasonLost ends a run that its cluster no longer knows.
	ReasonLost = "Job either timed out or not found on the EKS cluster."
	// ReasonTerminated ends a run that a user stopped.
	ReasonTerminated = "Task terminated by user"
)

// Exit codes that Flotilla itself gives.
const (
	// ExitCodeNeverStarted is the code of a run that never had a container, and of one that a user stopped.
	ExitCodeNeverStarted int64 = 1
	// ExitCodeDeadline is the code of a run past its active_deadline_seconds.
	ExitCodeDeadline int64 = 124
	// ExitCodeOOM is the code of a container killed for memory (128 + SIGKILL).
	ExitCodeOOM int64 = 137
)

// Size is memory in MB (10^6 bytes) and cpu in millicores.
type Size struct {
	Memory int64 `db:"memory"`
	CPU    int64 `db:"cpu"`
}

// AtLeast returns the greater memory and the greater cpu of both sizes.
func (s Size) AtLeast(other Size) Size {
	return Size{max(s.Memory, other.Memory), max(s.CPU, other.CPU)}
}

// AtMost returns the smaller memory and the smaller cpu of both sizes.
func (s Size) AtMost(other Size) Size {
	return Size{min(s.Memory, other.Memory), min(s.CPU, other.CPU)}
}

// Fits reports whether neither memory nor cpu exceeds capacity.
func (s Size) Fits(capacity Size) bool { return s.Memory <= capacity.Memory && s.CPU <= capacity.CPU }

// EngineKey identifies an engine: the cluster where it is, and the kind of runs that it executes there
// (architecture.md, "Engines and clusters").
type EngineKey struct {
	Cluster string `db:"cluster_name"`
	// Engine is the runs' engine, such as EKSEngine.
	Engine string `db:"engine"`
}

func (k EngineKey) String() string { return k.Cluster + "/" + k.Engine }

// EngineKey returns the key of the engine that executes the run.
func (r Run) EngineKey() EngineKey {
	return EngineKey{r.ClusterName, cmp.Or(r.Engine, EKSEngine)}
}

// Run is one execution of a definition or template. Memory and storage are in MB (10^6 bytes), cpu in millicores,
// durations in seconds. The db tags are the columns of the table task.
type Run struct {
	RunID         string     `db:"run_id"`
	DefinitionID  string     `db:"definition_id"`
	Alias         string     `db:"alias"`
	Image         string     `db:"image"`
	ClusterName   string     `db:"cluster_name"`
	ExitCode      *int64     `db:"exit_code"`
	ExitReason    *string    `db:"exit_reason"`
	Status        Status     `db:"status"`
	StatusReason  *string    `db:"status_reason"`
	QueuedAt      *time.Time `db:"queued_at"`
	StartedAt     *time.Time `db:"started_at"`
	FinishedAt    *time.Time `db:"finished_at"`
	InstanceID    string     `db:"instance_id"`
	InstanceDNS   string     `db:"instance_dns_name"`
	GroupName     string     `db:"group_name"`
	User          string     `db:"user"`
	TaskType      string     `db:"task_type"`
	Env           EnvList    `db:"env"`
	Command       *string    `db:"command"`
	CommandHash   *string    `db:"command_hash"`
	Memory        *int64     `db:"memory"`
	MemoryLimit   *int64     `db:"memory_limit"`
	CPU           *int64     `db:"cpu"`
	CPULimit      *int64     `db:"cpu_limit"`
	GPU           *int64     `db:"gpu"`
	Engine        string     `db:"engine"`
	NodeLifecycle *string    `db:"node_lifecycle"`
	// EphemeralStorage is in MB.
	EphemeralStorage *int64                  `db:"ephemeral_storage"`
	ContainerName    *string                 `db:"container_name"`
	PodName          *string                 `db:"pod_name"`
	Namespace        *string                 `db:"namespace"`
	MaxMemoryUsed    *int64                  `db:"max_memory_used"`
	MaxCPUUsed       *int64                  `db:"max_cpu_used"`
	PodEvents        PodEvents               `db:"pod_events"`
	CloudTrail       CloudTrailNotifications `db:"cloudtrail_notifications"`
	ExecutableID     *string                 `db:"executable_id"`
	ExecutableType   ExecutableType          `db:"executable_type"`
	// RequestCustom holds what only one kind of executable has: {"template_payload": {...}} of a template's run.
	RequestCustom Object      `db:"execution_request_custom"`
	AttemptCount  *int64      `db:"attempt_count"`
	SpawnedRuns   SpawnedRuns `db:"spawned_runs"`
	RunExceptions Strings     `db:"run_exceptions"`
	// ActiveDeadlineSeconds counts from StartedAt.
	ActiveDeadlineSeconds *int64          `db:"active_deadline_seconds"`
	SparkExtension        *SparkExtension `db:"spark_extension"`
	MetricsURI            *string         `db:"metrics_uri"`
	Description           string          `db:"description"`
	IdempotenceKey        *string         `db:"idempotence_key"`
	Arch                  *string         `db:"arch"`
	Labels                Labels          `db:"labels"`
	RequiresDocker        bool            `db:"requires_docker"`
	ServiceAccount        *string         `db:"service_account"`
	// Tier reads "Tier4" if the column is NULL (rest-api.md, Run).
	Tier string `db:"tier"`

	// DefinitionVersion is the version of the definition that a new run was made from; empty allows any (see
	// CreateRun). It is not stored.
	DefinitionVersion string `db:"definition_version"`
	// RequestedMemory and RequestedCPU are what the client asked for. Memory and CPU are overwritten by what the run
	// gets.
	RequestedMemory *int64 `db:"requested_memory"`
	RequestedCPU    *int64 `db:"requested_cpu"`
	// ClaimedBy is the worker that holds the lease on a QUEUED run, and from PENDING on the node that owns a run of a
	// local cluster.
	ClaimedBy     *string    `db:"claimed_by"`
	ClaimedUntil  *time.Time `db:"claimed_until"`
	NextAttemptAt *time.Time `db:"next_attempt_at"`
}

// Attempt returns the number of the attempt that is under way or comes next, 1 for a run that has had none.
func (r Run) Attempt() int64 { return max(deref(r.AttemptCount), 1) }

// NewRunID returns a new id of a run: the engine's name, a dash, and a random UUID without its first characters, so
// that the whole is 36 characters long (rest-api.md, Run).
func NewRunID(engine string) string {
	return engine + "-" + uuid.NewString()[len(engine)+1:]
}

// PodEvent is something that happened to a run's pod.
type PodEvent struct {
	Timestamp    *time.Time `json:"timestamp,omitempty"`
	EventType    string     `json:"event_type"`
	Reason       string     `json:"reason"`
	SourceObject string     `json:"source_object"`
	Message      string     `json:"message"`
}

// PodEvents are the events of a run's pods, oldest first.
type PodEvents []PodEvent

// Value implements driver.Valuer.
func (e PodEvents) Value() (driver.Value, error) { return valueJSON([]PodEvent(e)) }

// SpawnedRun names a run that another run started.
type SpawnedRun struct {
	RunID string `json:"run_id"`
}

// SpawnedRuns are the children of a run.
type SpawnedRuns []SpawnedRun

// Value implements driver.Valuer.
func (s SpawnedRuns) Value() (driver.Value, error) { return valueJSON([]SpawnedRun(s)) }

// CloudTrailNotifications holds what AWS recorded of a run's calls.
type CloudTrailNotifications struct {
	Records []CloudTrailRecord `json:"Records"`
}

// CloudTrailRecord is one call that AWS recorded.
type CloudTrailRecord struct {
	UserIdentity CloudTrailIdentity `json:"userIdentity"`
	EventSource  string             `json:"eventSource"`
	EventName    string             `json:"eventName"`
}

// CloudTrailIdentity is the author of a recorded call.
type CloudTrailIdentity struct {
	Arn string `json:"arn"`
}

// Value implements driver.Valuer.
func (c CloudTrailNotifications) Value() (driver.Value, error) {
	if c.Records == nil {
		return nil, nil
	}
	return valueJSON(c)
}
