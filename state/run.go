package state

import (
	"database/sql/driver"
	"encoding/json"
	"time"
)

// Engines of a run: what it is, not where it goes (architecture.md).
const (
	// EKSEngine marks a container job, on whatever kind of cluster.
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

// ExecutableType says what a run was made from.
type ExecutableType string

const (
	// ExecutableTypeDefinition: the run was made from a definition.
	ExecutableTypeDefinition ExecutableType = "task_definition"
	// ExecutableTypeTemplate: the run was made from a template.
	ExecutableTypeTemplate ExecutableType = "template"
)

// DefaultTaskType is the task_type of every run.
const DefaultTaskType = "task"

// TemplateGroupName is the group_name of every run of a template.
const TemplateGroupName = "template_group_name"

// ParentRunEnv names the environment variable that makes a run the child of
// another.
const ParentRunEnv = "PARENT_FLOTILLA_RUN_ID"

// Reasons that Flotilla itself gives to a run's end.
const (
	// ReasonOOMKilled is Kubernetes' word for a container killed for memory.
	ReasonOOMKilled = "OOMKilled"
	// ReasonLost ends a run that its cluster no longer knows.
	ReasonLost = "Job either timed out or not found on the EKS cluster."
	// ReasonTerminated ends a run that a user stopped.
	ReasonTerminated = "Task terminated by user"
)

// Exit codes that Flotilla itself gives.
const (
	// ExitCodeNeverStarted is the code of a run that never had a container,
	// and of one that a user stopped.
	ExitCodeNeverStarted int64 = 1
	// ExitCodeDeadline is the code of a run past its active_deadline_seconds.
	ExitCodeDeadline int64 = 124
	// ExitCodeOOM is the code of a container killed for memory (128 + SIGKILL).
	ExitCodeOOM int64 = 137
)

// Run is one execution of a definition or template. Memory and storage are in
// MB (10^6 bytes), cpu in millicores, durations in seconds. The db tags are
// the columns of the table task, the json tags the fields of the REST
// resource "Run"; fields that the resource always has, even empty, have no
// omitempty.
type Run struct {
	RunID         string     `db:"run_id" json:"run_id"`
	DefinitionID  string     `db:"definition_id" json:"definition_id"`
	Alias         string     `db:"alias" json:"alias"`
	Image         string     `db:"image" json:"image"`
	ClusterName   string     `db:"cluster_name" json:"cluster"`
	ExitCode      *int64     `db:"exit_code" json:"exit_code,omitempty"`
	ExitReason    *string    `db:"exit_reason" json:"exit_reason,omitempty"`
	Status        Status     `db:"status" json:"status"`
	StatusReason  *string    `db:"status_reason" json:"status_reason,omitempty"`
	QueuedAt      *time.Time `db:"queued_at" json:"queued_at,omitempty"`
	StartedAt     *time.Time `db:"started_at" json:"started_at,omitempty"`
	FinishedAt    *time.Time `db:"finished_at" json:"finished_at,omitempty"`
	InstanceID    string     `db:"instance_id" json:"-"`
	InstanceDNS   string     `db:"instance_dns_name" json:"-"`
	GroupName     string     `db:"group_name" json:"group_name"`
	User          string     `db:"user" json:"user,omitempty"`
	TaskType      string     `db:"task_type" json:"task_type,omitempty"`
	Env           EnvList    `db:"env" json:"env"`
	Command       *string    `db:"command" json:"command,omitempty"`
	CommandHash   *string    `db:"command_hash" json:"command_hash,omitempty"`
	Memory        *int64     `db:"memory" json:"memory,omitempty"`
	MemoryLimit   *int64     `db:"memory_limit" json:"memory_limit,omitempty"`
	CPU           *int64     `db:"cpu" json:"cpu,omitempty"`
	CPULimit      *int64     `db:"cpu_limit" json:"cpu_limit,omitempty"`
	GPU           *int64     `db:"gpu" json:"gpu,omitempty"`
	Engine        string     `db:"engine" json:"engine,omitempty"`
	NodeLifecycle *string    `db:"node_lifecycle" json:"node_lifecycle,omitempty"`
	// EphemeralStorage is in MB.
	EphemeralStorage *int64                  `db:"ephemeral_storage" json:"ephemeral_storage,omitempty"`
	ContainerName    *string                 `db:"container_name" json:"-"`
	PodName          *string                 `db:"pod_name" json:"pod_name,omitempty"`
	Namespace        *string                 `db:"namespace" json:"namespace,omitempty"`
	MaxMemoryUsed    *int64                  `db:"max_memory_used" json:"max_memory_used,omitempty"`
	MaxCPUUsed       *int64                  `db:"max_cpu_used" json:"max_cpu_used,omitempty"`
	PodEvents        PodEvents               `db:"pod_events" json:"pod_events"`
	CloudTrail       CloudTrailNotifications `db:"cloudtrail_notifications" json:"cloudtrail_notifications"`
	ExecutableID     *string                 `db:"executable_id" json:"executable_id,omitempty"`
	ExecutableType   ExecutableType          `db:"executable_type" json:"executable_type,omitempty"`
	// RequestCustom holds what only one kind of executable knows:
	// {"template_payload": {...}} of a template's run.
	RequestCustom Object      `db:"execution_request_custom" json:"execution_request_custom,omitempty"`
	AttemptCount  *int64      `db:"attempt_count" json:"attempt_count,omitempty"`
	SpawnedRuns   SpawnedRuns `db:"spawned_runs" json:"spawned_runs,omitempty"`
	RunExceptions Strings     `db:"run_exceptions" json:"run_exceptions,omitempty"`
	// ActiveDeadlineSeconds counts from StartedAt.
	ActiveDeadlineSeconds *int64          `db:"active_deadline_seconds" json:"active_deadline_seconds,omitempty"`
	SparkExtension        *SparkExtension `db:"spark_extension" json:"spark_extension"`
	MetricsURI            *string         `db:"metrics_uri" json:"metrics_uri,omitempty"`
	Description           string          `db:"description" json:"description"`
	IdempotenceKey        *string         `db:"idempotence_key" json:"idempotence_key,omitempty"`
	Arch                  *string         `db:"arch" json:"arch,omitempty"`
	Labels                Labels          `db:"labels" json:"labels,omitempty"`
	RequiresDocker        bool            `db:"requires_docker" json:"requires_docker,omitempty"`
	ServiceAccount        *string         `db:"service_account" json:"service_account,omitempty"`
	// Tier reads "Tier4" where the column is NULL (rest-api.md, Run).
	Tier string `db:"tier" json:"tier,omitempty"`

	// DefinitionVersion is that of the definition that a new run was made
	// from, empty where any will do (see CreateRun). It is not stored.
	DefinitionVersion string `db:"definition_version" json:"-"`
	// RequestedMemory and RequestedCPU are what the client asked for; Memory
	// and CPU are overwritten by what was given.
	RequestedMemory *int64 `db:"requested_memory" json:"-"`
	RequestedCPU    *int64 `db:"requested_cpu" json:"-"`
	// ClaimedBy is the worker that holds the lease on a QUEUED run, and from
	// PENDING on the node that owns a run of a local cluster.
	ClaimedBy     *string    `db:"claimed_by" json:"-"`
	ClaimedUntil  *time.Time `db:"claimed_until" json:"-"`
	NextAttemptAt *time.Time `db:"next_attempt_at" json:"-"`
}

// Attempt is the number of the attempt that is under way or comes next: 1 for
// a run that has had none.
func (r Run) Attempt() int64 {
	if r.AttemptCount == nil || *r.AttemptCount < 1 {
		return 1
	}
	return *r.AttemptCount
}

// Instance is where a run's container runs.
type Instance struct {
	InstanceID string `json:"instance_id"`
	DNSName    string `json:"dns_name"`
}

// MarshalJSON writes the REST resource "Run".
func (r Run) MarshalJSON() ([]byte, error) { return json.Marshal(r.resource()) }

// restRunFields are those of Run without its methods.
type restRunFields Run

// restRun is the REST resource "Run", see RunResources.
type restRun struct {
	restRunFields
	Instance       Instance        `json:"instance"`
	SparkExtension *SparkExtension `json:"spark_extension"`
}

// RunResources are runs as encoding/json writes them without a second look: to
// it, what a MarshalJSON returns is text to be checked and copied, which for a
// page of runs takes most of the time.
func RunResources(runs []Run) any {
	resources := make([]restRun, len(runs))
	for i, run := range runs {
		resources[i] = run.resource()
	}
	return resources
}

func (r Run) resource() restRun {
	if r.Env == nil {
		r.Env = EnvList{}
	}
	if r.PodEvents == nil {
		r.PodEvents = PodEvents{}
	}
	r.QueuedAt, r.StartedAt, r.FinishedAt = utc(r.QueuedAt), utc(r.StartedAt), utc(r.FinishedAt)
	for _, text := range []**string{
		&r.ExitReason, &r.StatusReason, &r.Command, &r.CommandHash, &r.NodeLifecycle, &r.PodName, &r.Namespace,
		&r.ExecutableID, &r.MetricsURI, &r.IdempotenceKey, &r.Arch, &r.ServiceAccount,
	} {
		*text = filled(*text)
	}
	return restRun{restRunFields(r), Instance{r.InstanceID, r.InstanceDNS}, r.SparkExtension.shown(r)}
}

// PodEvent is something that happened to a run's pod.
type PodEvent struct {
	Timestamp    *time.Time `json:"timestamp,omitempty"`
	EventType    string     `json:"event_type"`
	Reason       string     `json:"reason"`
	SourceObject string     `json:"source_object"`
	Message      string     `json:"message"`
}

// MarshalJSON writes the time in UTC.
func (e PodEvent) MarshalJSON() ([]byte, error) {
	type fields PodEvent
	e.Timestamp = utc(e.Timestamp)
	return json.Marshal(fields(e))
}

// PodEvents are the events of a run's pods, oldest first.
type PodEvents []PodEvent

// Scan implements sql.Scanner.
func (e *PodEvents) Scan(src any) error { return scanJSON((*[]PodEvent)(e), src) }

// Value implements driver.Valuer.
func (e PodEvents) Value() (driver.Value, error) { return valueJSON([]PodEvent(e)) }

// SpawnedRun names a run that another run started.
type SpawnedRun struct {
	RunID string `json:"run_id"`
}

// SpawnedRuns are the children of a run.
type SpawnedRuns []SpawnedRun

// Scan implements sql.Scanner.
func (s *SpawnedRuns) Scan(src any) error { return scanJSON((*[]SpawnedRun)(s), src) }

// Value implements driver.Valuer.
func (s SpawnedRuns) Value() (driver.Value, error) { return valueJSON([]SpawnedRun(s)) }

// CloudTrailNotifications are what AWS recorded of a run's calls.
type CloudTrailNotifications struct {
	Records []CloudTrailRecord `json:"Records"`
}

// CloudTrailRecord is one call that AWS recorded.
type CloudTrailRecord struct {
	UserIdentity CloudTrailIdentity `json:"userIdentity"`
	EventSource  string             `json:"eventSource"`
	EventName    string             `json:"eventName"`
}

// CloudTrailIdentity is who made a recorded call.
type CloudTrailIdentity struct {
	Arn string `json:"arn"`
}

// Scan implements sql.Scanner.
func (c *CloudTrailNotifications) Scan(src any) error {
	type plain CloudTrailNotifications
	return scanJSON((*plain)(c), src)
}

// Value implements driver.Valuer.
func (c CloudTrailNotifications) Value() (driver.Value, error) {
	if c.Records == nil {
		return nil, nil
	}
	return valueJSON(c)
}
