package api

import (
	"encoding/json"
	"time"
)

// Status is the state of a run.
type Status string

// The statuses of a run.
const (
	StatusQueued     Status = "QUEUED"
	StatusPending    Status = "PENDING"
	StatusRunning    Status = "RUNNING"
	StatusNeedsRetry Status = "NEEDS_RETRY"
	StatusStopped    Status = "STOPPED"
)

// Run is one execution of a definition or template, as answered.
type Run struct {
	RunID        string `json:"run_id"`
	DefinitionID string `json:"definition_id"`
	Alias        string `json:"alias"`
	Image        string `json:"image"`
	// Cluster is the name of the cluster.
	Cluster    string `json:"cluster"`
	ExitCode   *int64 `json:"exit_code,omitempty"`
	ExitReason string `json:"exit_reason,omitempty"`
	Status     Status `json:"status"`
	// StatusReason is a sentence that explains why the run waits.
	StatusReason string     `json:"status_reason,omitempty"`
	QueuedAt     *time.Time `json:"queued_at,omitempty"`
	StartedAt    *time.Time `json:"started_at,omitempty"`
	FinishedAt   *time.Time `json:"finished_at,omitempty"`
	Instance     Instance   `json:"instance"`
	GroupName    string     `json:"group_name"`
	// User is the owner that the request named.
	User     string   `json:"user,omitempty"`
	TaskType string   `json:"task_type,omitempty"`
	Env      []EnvVar `json:"env"`
	Command  string   `json:"command,omitempty"`
	// CommandHash is the MD5 of Command in hex; ARA identifies a run by it.
	CommandHash string `json:"command_hash,omitempty"`
	// Memory and CPU are the request's until the run is PENDING, from then on what was given.
	Memory      *int64 `json:"memory,omitempty"`       // MB
	MemoryLimit *int64 `json:"memory_limit,omitempty"` // MB
	CPU         *int64 `json:"cpu,omitempty"`          // millicores
	CPULimit    *int64 `json:"cpu_limit,omitempty"`    // millicores
	GPU         *int64 `json:"gpu,omitempty"`          // devices
	// Engine is "eks" for a container job, "eks-spark" for a Spark job.
	Engine string `json:"engine,omitempty"`
	// NodeLifecycle is "spot" or "ondemand".
	NodeLifecycle    string     `json:"node_lifecycle,omitempty"`
	EphemeralStorage *int64     `json:"ephemeral_storage,omitempty"` // MB
	PodName          string     `json:"pod_name,omitempty"`
	Namespace        string     `json:"namespace,omitempty"`
	MaxMemoryUsed    *int64     `json:"max_memory_used,omitempty"` // MB
	MaxCPUUsed       *int64     `json:"max_cpu_used,omitempty"`    // millicores
	PodEvents        []PodEvent `json:"pod_events"`
	CloudTrail       CloudTrail `json:"cloudtrail_notifications"`
	ExecutableID     string     `json:"executable_id,omitempty"`
	// ExecutableType is "task_definition" or "template".
	ExecutableType string `json:"executable_type,omitempty"`
	// RequestCustom is {"template_payload": {...}} if the run is a template's.
	RequestCustom map[string]any `json:"execution_request_custom,omitempty"`
	AttemptCount  *int64         `json:"attempt_count,omitempty"`
	SpawnedRuns   []SpawnedRun   `json:"spawned_runs,omitempty"`
	RunExceptions []string       `json:"run_exceptions,omitempty"`
	// ActiveDeadlineSeconds counts from StartedAt.
	ActiveDeadlineSeconds *int64         `json:"active_deadline_seconds,omitempty"`
	SparkExtension        SparkExtension `json:"spark_extension"`
	MetricsURI            string         `json:"metrics_uri,omitempty"`
	Description           string         `json:"description"`
	IdempotenceKey        string         `json:"idempotence_key,omitempty"`
	Arch                  string         `json:"arch,omitempty"`
	// Labels are the run's own; the cluster gets further ones.
	Labels         map[string]string `json:"labels,omitempty"`
	RequiresDocker bool              `json:"requires_docker,omitempty"`
	ServiceAccount string            `json:"service_account,omitempty"`
	Tier           string            `json:"tier,omitempty"`
}

// Instance is the machine on which a run's container runs.
type Instance struct {
	InstanceID string `json:"instance_id"`
	DNSName    string `json:"dns_name"`
}

// SparkExtension is the JSON object of what only Spark runs have. It stays JSON because members that Flotilla does not
// know are kept (rest-api.md, Run; openapi.yaml lists the known ones).
type SparkExtension = json.RawMessage

// PodEvent is an event of a run's pod.
type PodEvent struct {
	Timestamp    *time.Time `json:"timestamp,omitempty"`
	EventType    string     `json:"event_type"`
	Reason       string     `json:"reason"`
	SourceObject string     `json:"source_object"`
	Message      string     `json:"message"`
}

// CloudTrail lists the AWS calls of a run, as AWS recorded them.
type CloudTrail struct {
	Records []CloudTrailRecord `json:"Records"`
}

// CloudTrailRecord is one recorded call.
type CloudTrailRecord struct {
	UserIdentity CloudTrailIdentity `json:"userIdentity"`
	EventSource  string             `json:"eventSource"`
	EventName    string             `json:"eventName"`
}

// CloudTrailIdentity is the caller of a recorded call.
type CloudTrailIdentity struct {
	Arn string `json:"arn"`
}

// SpawnedRun names a run that another run started.
type SpawnedRun struct {
	RunID string `json:"run_id"`
}

// LightStatus is the answer of GET /{run_id}/status, for pollers.
type LightStatus struct {
	RunID        string     `json:"run_id"`
	Status       Status     `json:"status"`
	QueuedAt     *time.Time `json:"queued_at,omitempty"`
	StartedAt    *time.Time `json:"started_at,omitempty"`
	FinishedAt   *time.Time `json:"finished_at,omitempty"`
	ExitCode     *int64     `json:"exit_code,omitempty"`
	ExitReason   string     `json:"exit_reason,omitempty"`
	Engine       string     `json:"engine"`
	DefinitionID string     `json:"definition_id"`
	Alias        string     `json:"alias"`
	ClusterName  string     `json:"cluster_name"`
}

// StatusReport is the body of PUT /{run_id}/status, by which a run reports its own status.
type StatusReport struct {
	Status        Status   `json:"status"`
	ExitCode      *int64   `json:"exit_code"`
	ExitReason    string   `json:"exit_reason"`
	RunExceptions []string `json:"run_exceptions"`
}

// Events is the answer of GET /{run_id}/events.
type Events struct {
	Total     int        `json:"total"`
	PodEvents []PodEvent `json:"pod_events"`
}

// LogPage is the answer of GET /{run_id}/logs.
type LogPage struct {
	Log string `json:"log"`
	// LastSeen is the position behind Log, to be sent with the next request.
	LastSeen string `json:"last_seen"`
}
