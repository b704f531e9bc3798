package state

import (
	"cmp"
	"time"
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

// Acceptance is what a cluster gave a run when it took it.
type Acceptance struct {
	Size       // requested of the cluster; 0 was not said
	Limit Size `db:"limit"`
	// Node owns the run from now on where the cluster is local; empty
	// elsewhere.
	Node string `db:"node"`
	// InstanceID is set together with Node where the node starts the run at
	// once, see Manager.CommitStart.
	InstanceID    string  `db:"instance_id"`
	PodName       *string `db:"pod_name"`
	Namespace     *string `db:"namespace"`
	ContainerName *string `db:"container_name"`
}

// RunUpdate carries the columns that a change of a run sets; nil leaves a
// column as it is.
type RunUpdate struct {
	StartedAt  *time.Time `db:"started_at"`
	FinishedAt *time.Time `db:"finished_at"`
	// ExitCode counts only where the run stops.
	ExitCode      *int64    `db:"exit_code"`
	ExitReason    *string   `db:"exit_reason"`
	StatusReason  *string   `db:"status_reason"`
	InstanceID    *string   `db:"instance_id"`
	InstanceDNS   *string   `db:"instance_dns_name"`
	PodName       *string   `db:"pod_name"`
	Namespace     *string   `db:"namespace"`
	MaxMemoryUsed *int64    `db:"max_memory_used"` // MB
	MaxCPUUsed    *int64    `db:"max_cpu_used"`    // millicores
	PodEvents     PodEvents `db:"pod_events"`
	// What the cluster gave the run, where it says so after the acceptance: a
	// run whose submission was cut off is known by its Job alone. Memory in MB,
	// cpu in millicores.
	Memory      *int64 `db:"memory"`
	MemoryLimit *int64 `db:"memory_limit"`
	CPU         *int64 `db:"cpu"`
	CPULimit    *int64 `db:"cpu_limit"`
}

// EngineKey names an engine: where it is, and which kind of runs it executes
// there (architecture.md, "Engines and clusters").
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

// ClaimRequest asks for queued runs of one engine.
type ClaimRequest struct {
	EngineKey
	// Worker is the claimant, unique to a process.
	Worker string
	// Lease is how long the claim holds.
	Lease time.Duration
	// Limit is the most runs to claim.
	Limit int
}

// SelfReport is what a run says of itself (rest-api.md, "Self-reported
// status"). nil means not said.
type SelfReport struct {
	Status        Status
	ExitCode      *int64
	ExitReason    *string
	RunExceptions []string
}

// QueueDepth counts the runs of one engine that are not over.
type QueueDepth struct {
	EngineKey
	// Queued counts QUEUED runs; Active counts PENDING and RUNNING ones.
	Queued int64 `db:"queued"`
	Active int64 `db:"active"`
	// OldestAge is the age in seconds of the oldest QUEUED run, 0 where none.
	OldestAge float64 `db:"oldest_age"`
}

// RetryPolicy bounds the attempts at a run after infrastructure failures.
type RetryPolicy struct {
	// MaxAttempts counts the first one.
	MaxAttempts int
	// BaseDelay is the wait before the second attempt; it doubles with each
	// further one, up to MaxDelay.
	BaseDelay, MaxDelay time.Duration
	// Limit is the most runs to look at.
	Limit int
	// Engines are the engines of the runs to look at.
	Engines []string
}
