package state

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/lib/pq"
)

// Status is where a run stands in its life. The words are stored in the
// column task.status and are part of the REST contract.
type Status string

const (
	// StatusQueued: the run is committed and waits to be claimed.
	StatusQueued Status = "QUEUED"
	// StatusPending: a cluster has accepted the run; its container has not
	// started yet.
	StatusPending Status = "PENDING"
	// StatusRunning: the run's container has started.
	StatusRunning Status = "RUNNING"
	// StatusNeedsRetry: the cluster failed the run (never the user's own exit
	// code); the retry worker puts it back in the queue.
	StatusNeedsRetry Status = "NEEDS_RETRY"
	// StatusStopped: the run is over. Final.
	StatusStopped Status = "STOPPED"
)

// Statuses lists every status in the order of a run's life.
var Statuses = []Status{StatusQueued, StatusPending, StatusRunning, StatusNeedsRetry, StatusStopped}

// legalMoves is the one table of a run's life: from each status, the statuses
// that one UPDATE may move it to. The guards of every UPDATE derive from it,
// and docs/states.md draws it. RUNNING may be reached from QUEUED and STOPPED
// from every status, because a re-list after a gap finds a run in its true
// state and not in the next one.
var legalMoves = map[Status][]Status{
	StatusQueued:     {StatusPending, StatusRunning, StatusStopped},
	StatusPending:    {StatusQueued, StatusRunning, StatusNeedsRetry, StatusStopped},
	StatusRunning:    {StatusNeedsRetry, StatusStopped},
	StatusNeedsRetry: {StatusQueued, StatusStopped},
	StatusStopped:    {},
}

// Valid reports whether s is one of the five status words.
func (s Status) Valid() bool { return slices.Contains(Statuses, s) }

// Final reports whether no move leads out of s.
func (s Status) Final() bool { return s == StatusStopped }

// MayBecome reports whether one UPDATE may move a run from s to next.
func (s Status) MayBecome(next Status) bool { return slices.Contains(legalMoves[s], next) }

// sourcesOf lists the statuses that an UPDATE to next may leave, as the guard
// of that UPDATE.
func sourcesOf(next Status) []Status {
	var from []Status
	for _, s := range Statuses {
		if s.MayBecome(next) {
			from = append(from, s)
		}
	}
	return from
}

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

// EventTaskStatus is the event of the audit line of a run's change of status.
// Existing log searches look for this name.
const EventTaskStatus = "FlotillaTaskStatus"

// Auditor is who made an audited change. Who is the email, else the token's
// name, else the owner that the request names.
type Auditor struct{ Who, Token, Email string }

// Program is the Auditor of what Flotilla does by itself, such as recording
// what a cluster reports.
var Program = Auditor{Who: "flotilla"}

// AuditLine returns the attributes that begin every audit line: the event, who
// made the change, and the owner of what was changed.
func AuditLine(event string, by Auditor, owner string) []any {
	return []any{"event", event, "who", by.Who, "token", by.Token, "email", by.Email, "owner", owner}
}

// AuditStatus returns all attributes of the audit line of a run's change of
// status, for slog. It is the same line whoever makes the change. exit_code and
// exit_reason are left out while they are unknown.
func AuditStatus(by Auditor, run Run, to Status, u RunUpdate) []any {
	line := append(AuditLine(EventTaskStatus, by, run.User),
		"run_id", run.RunID, "definition_id", run.DefinitionID, "alias", run.Alias, "cluster", run.ClusterName,
		"engine", run.Engine, "status", to, "attempt", run.Attempt())
	if u.ExitCode != nil {
		line = append(line, "exit_code", *u.ExitCode)
	}
	if u.ExitReason != nil {
		line = append(line, "exit_reason", *u.ExitReason)
	}
	return line
}

// startedSQL keeps the start of the first attempt, because the deadline counts
// from it. A start that only stands in for an unknown one (SelfReportRun sets
// queued_at) gives way to the real one.
const startedSQL = `CASE WHEN started_at IS NULL OR started_at = queued_at
			THEN COALESCE(CAST(:started_at AS timestamptz), started_at) ELSE started_at END`

// seenSQL sets what engines see of a run, in every status.
const seenSQL = `started_at = ` + startedSQL + `,
		instance_id = COALESCE(:instance_id, instance_id),
		instance_dns_name = COALESCE(:instance_dns_name, instance_dns_name),
		pod_name = COALESCE(:pod_name, pod_name),
		namespace = COALESCE(:namespace, namespace),
		max_memory_used = GREATEST(max_memory_used, :max_memory_used),
		max_cpu_used = GREATEST(max_cpu_used, :max_cpu_used),
		pod_events = COALESCE(CAST(:pod_events AS jsonb), pod_events),
		memory = COALESCE(:memory, memory),
		memory_limit = COALESCE(:memory_limit, memory_limit),
		cpu = COALESCE(:cpu, cpu),
		cpu_limit = COALESCE(:cpu_limit, cpu_limit)`

// sameAttemptSQL lets through what was seen of the present attempt only.
const sameAttemptSQL = `GREATEST(COALESCE(attempt_count, 1), 1) = :attempt`

const moveRunSQL = `UPDATE task SET
		status = :to_status,
		attempt_count = COALESCE(attempt_count, :attempt),
		finished_at = CASE WHEN :to_status = 'STOPPED' THEN COALESCE(CAST(:finished_at AS timestamptz), now()) ELSE finished_at END,
		exit_code = CASE WHEN :to_status = 'STOPPED' THEN :exit_code ELSE exit_code END,
		exit_reason = COALESCE(:exit_reason, exit_reason),
		status_reason = NULLIF(:status_reason, ''),
		` + seenSQL + `
	WHERE run_id = :run_id AND status = ANY(:guard) AND ` + sameAttemptSQL

// seen is what an engine saw, as arguments.
type seen struct {
	RunUpdate
	RunID   string         `db:"run_id"`
	Attempt int64          `db:"attempt"`
	To      Status         `db:"to_status"`
	Guard   pq.StringArray `db:"guard"`
}

// MoveRun moves a run to the status `to` and records u. It returns false, and
// changes nothing, where the life of a run does not allow the move (see
// legalMoves) or the run is at another attempt. The status reason becomes
// u's, or none.
func (m *Manager) MoveRun(ctx context.Context, runID string, attempt int64, to Status, u RunUpdate) (bool, error) {
	return m.hitsOne(ctx, moveRunSQL, seen{RunUpdate: u, RunID: runID, Attempt: attempt, To: to, Guard: guard(to)})
}

const annotateRunSQL = `UPDATE task SET
		exit_reason = COALESCE(NULLIF(exit_reason, ''), :exit_reason),
		status_reason = CASE WHEN status = 'STOPPED' THEN status_reason
			ELSE NULLIF(COALESCE(:status_reason, status_reason), '') END,
		` + seenSQL + `
	WHERE run_id = :run_id AND ` + sameAttemptSQL

// AnnotateRun records details of a run and leaves its status, its end and its
// exit code as they are; an exit reason is added only where none was. It
// returns false where the run is at another attempt, or gone.
func (m *Manager) AnnotateRun(ctx context.Context, runID string, attempt int64, u RunUpdate) (bool, error) {
	return m.hitsOne(ctx, annotateRunSQL, seen{RunUpdate: u, RunID: runID, Attempt: attempt})
}

// endClaimSQL ends a claim where a run is stopped by anyone but its cluster, so
// that the worker that holds it finds that the cluster must not keep the run.
// The owner of a run that a cluster had already accepted stays known: the log
// is there.
const endClaimSQL = `claimed_by = CASE WHEN status = 'QUEUED' THEN NULL ELSE claimed_by END, claimed_until = NULL`

const stopRunSQL = `UPDATE task SET
		status = :to_status, exit_code = :exit_code, exit_reason = :reason, finished_at = now(), status_reason = NULL,
		` + endClaimSQL + `
	WHERE run_id = :run_id AND status = ANY(:guard)`

// stop is the end of a run that we decide, as arguments.
type stop struct {
	RunID    string         `db:"run_id"`
	Worker   string         `db:"worker"`
	Reason   string         `db:"reason"`
	ExitCode int64          `db:"exit_code"`
	To       Status         `db:"to_status"`
	Guard    pq.StringArray `db:"guard"`
}

// StopRun stops a run on a user's behalf, with exit code 1 and the given
// reason, whatever it is doing. It returns the row as it is now, and whether
// this call stopped it. MissingResource where there is no such run.
func (m *Manager) StopRun(ctx context.Context, runID, reason string) (Run, bool, error) {
	return m.moved(ctx, stopRunSQL+` RETURNING `+runColumns, runID, stop{
		RunID: runID, Reason: reason, ExitCode: ExitCodeNeverStarted, To: StatusStopped, Guard: guard(StatusStopped),
	})
}

// RejectRun stops a run that its cluster can never execute; the worker must
// hold its claim. It returns false where it does not.
func (m *Manager) RejectRun(ctx context.Context, runID, worker, reason string) (bool, error) {
	return m.hitsOne(ctx, stopRunSQL+` AND claimed_by = :worker`, stop{
		RunID: runID, Worker: worker, Reason: reason,
		ExitCode: ExitCodeNeverStarted, To: StatusStopped, Guard: guard(StatusStopped, StatusQueued),
	})
}

const (
	// A stop by the run's own word ends a claim as stopRunSQL does; any other
	// move leaves it, because the cluster keeps the run.
	moveReportedSQL = `UPDATE task SET
		status = :to_status,
		started_at = COALESCE(started_at, queued_at),
		finished_at = CASE WHEN :to_status = 'STOPPED' THEN now() ELSE finished_at END,
		exit_code = CASE WHEN :to_status = 'STOPPED' THEN :exit_code ELSE exit_code END,
		exit_reason = COALESCE(:exit_reason, exit_reason),
		run_exceptions = COALESCE(CAST(:run_exceptions AS jsonb), run_exceptions),
		status_reason = NULL,
		claimed_by = CASE WHEN :to_status = 'STOPPED' AND status = 'QUEUED' THEN NULL ELSE claimed_by END
	WHERE run_id = :run_id AND status = ANY(:guard)
	RETURNING ` + runColumns

	noteReportedSQL = `UPDATE task SET
		exit_reason = COALESCE(NULLIF(exit_reason, ''), :exit_reason),
		run_exceptions = COALESCE(NULLIF(run_exceptions, 'null'), CAST(:run_exceptions AS jsonb))
	WHERE run_id = :run_id
	RETURNING ` + runColumns
)

// SelfReportRun records what a run says of itself (rest-api.md, "Self-reported
// status"): it moves the run forward along its life, and where the status is
// known but no such move, it adds only an exit reason and exceptions where
// there were none. It answers the row as it is now, and whether the report
// moved the run. The reason is the report's; services derives one from the
// exceptions. MalformedInput where the status is none, MissingResource where
// there is no such run.
func (m *Manager) SelfReportRun(ctx context.Context, runID string, s SelfReport) (Run, bool, error) {
	if !s.Status.Valid() {
		return Run{}, false, Malformedf("status %q is unknown; it may be one of %v", s.Status, Statuses)
	}
	arg := struct {
		RunID         string         `db:"run_id"`
		ExitCode      *int64         `db:"exit_code"`
		ExitReason    *string        `db:"exit_reason"`
		RunExceptions Strings        `db:"run_exceptions"`
		To            Status         `db:"to_status"`
		Guard         pq.StringArray `db:"guard"`
	}{runID, s.ExitCode, s.ExitReason, s.RunExceptions, s.Status, reportGuard(s.Status)}
	if len(arg.RunExceptions) == 0 {
		arg.RunExceptions = nil
	}
	r, moved, err := m.moved(ctx, moveReportedSQL, runID, arg)
	if err != nil || moved {
		return r, moved, err
	}
	if arg.ExitReason == nil && arg.RunExceptions == nil {
		return r, false, nil
	}
	r, _, err = m.moved(ctx, noteReportedSQL, runID, arg)
	return r, false, err
}

// reportGuard is guard without the moves that go back: a run cannot put itself
// in the queue.
func reportGuard(to Status) pq.StringArray {
	if to == StatusQueued {
		return pq.StringArray{}
	}
	return guard(to)
}
