package state

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"github.com/lib/pq"
)

// Status is the state of a run. The words are stored in the column task.status and are part of the REST contract.
type Status string

const (
	// StatusQueued: the run is committed and waits to be claimed.
	StatusQueued Status = "QUEUED"
	// StatusPending: a cluster has accepted the run; its container has not started yet.
	StatusPending Status = "PENDING"
	// StatusRunning: the run's container has started.
	StatusRunning Status = "RUNNING"
	// StatusNeedsRetry: the cluster failed the run (never the user's own exit code); the retry worker puts it back in
	// the queue.
	StatusNeedsRetry Status = "NEEDS_RETRY"
	// StatusStopped: the run is over. It is final.
	StatusStopped Status = "STOPPED"
)

// Statuses lists every status in the order of a run's life.
var Statuses = []Status{StatusQueued, StatusPending, StatusRunning, StatusNeedsRetry, StatusStopped}

// legalMoves is the one table of a run's life: from each status, the statuses that one UPDATE may move it to. The
// guards of every UPDATE derive from it, and docs/states.md draws it. RUNNING may be reached from QUEUED and STOPPED
// from every status, because a re-list after a gap finds a run in its true state and not in the next one.
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

// guard returns the statuses that an UPDATE to the status `to` may leave, for its WHERE. If only is not empty, it
// returns those of them that are in only.
func guard(to Status, only ...Status) pq.StringArray {
	words := pq.StringArray{}
	for _, from := range Statuses {
		if from.MayBecome(to) && (len(only) == 0 || slices.Contains(only, from)) {
			words = append(words, string(from))
		}
	}
	return words
}

// hitsOne runs a guarded UPDATE and reports whether its guard let it through.
func (m *Manager) hitsOne(ctx context.Context, text string, arg any) (bool, error) {
	n, err := m.update(ctx, text, arg)
	return n == 1, err
}

// moved runs a guarded UPDATE that returns the row, and reports whether its guard let it through. If not, it reads the
// row as it stands. It returns MissingResource if there is none.
func (m *Manager) moved(ctx context.Context, text, runID string, arg any) (r Run, moved bool, err error) {
	stmt, err := m.named(ctx, text) //nolint:sqlclosecheck // it is kept
	if err != nil {
		return Run{}, false, err
	}
	r, err = m.readRun(ctx, func(row any) error { return stmt.GetContext(ctx, row, arg) })
	if !errors.Is(err, sql.ErrNoRows) {
		return r, err == nil, err
	}
	r, err = m.GetRun(ctx, runID)
	return r, false, err
}

// changed runs an UPDATE that returns the rows it changed.
func (m *Manager) changed(ctx context.Context, text string, arg any) ([]Run, error) {
	stmt, err := m.named(ctx, text) //nolint:sqlclosecheck // it is kept
	if err != nil {
		return nil, err
	}
	return m.readRuns(ctx, func(rows any) error { return stmt.SelectContext(ctx, rows, arg) })
}

// RunUpdate holds the columns that a change of a run sets. nil leaves a column as it is.
type RunUpdate struct {
	StartedAt  *time.Time `db:"started_at"`
	FinishedAt *time.Time `db:"finished_at"`
	// ExitCode counts only if the run stops.
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
	// Memory (MB) and CPU (millicores) are what the cluster gave the run, if that becomes known after the acceptance: a
	// run whose submission was cut off is known by its Job alone.
	Memory      *int64 `db:"memory"`
	MemoryLimit *int64 `db:"memory_limit"`
	CPU         *int64 `db:"cpu"`
	CPULimit    *int64 `db:"cpu_limit"`
}

// startedSQL keeps the start of the first attempt, because the deadline counts from it. A start that stands in for an
// unknown one (SelfReportRun sets queued_at) is replaced by the real one.
const startedSQL = `CASE WHEN started_at IS NULL OR started_at = queued_at
			THEN COALESCE(CAST(:started_at AS timestamptz), started_at) ELSE started_at END`

// seenSQL sets what engines observe of a run, in every status.
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

// sameAttemptSQL restricts an UPDATE to observations of the current attempt.
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

// seen holds what an engine observed, as arguments.
type seen struct {
	RunUpdate
	RunID   string         `db:"run_id"`
	Attempt int64          `db:"attempt"`
	To      Status         `db:"to_status"`
	Guard   pq.StringArray `db:"guard"`
}

// MoveRun moves a run to the status `to` and records u. It returns false and changes nothing if legalMoves does not
// have the move, or the run is at another attempt. The status reason becomes that of u, or none.
func (m *Manager) MoveRun(ctx context.Context, runID string, attempt int64, to Status, u RunUpdate) (bool, error) {
	return m.hitsOne(ctx, moveRunSQL, seen{RunUpdate: u, RunID: runID, Attempt: attempt, To: to, Guard: guard(to)})
}

const annotateRunSQL = `UPDATE task SET
		exit_reason = COALESCE(NULLIF(exit_reason, ''), :exit_reason),
		status_reason = CASE WHEN status = 'STOPPED' THEN status_reason
			ELSE NULLIF(COALESCE(:status_reason, status_reason), '') END,
		` + seenSQL + `
	WHERE run_id = :run_id AND ` + sameAttemptSQL

// AnnotateRun records details of a run and leaves its status, its end and its exit code as they are. It adds an exit
// reason only if there is none. It returns false if the run is at another attempt, or gone.
func (m *Manager) AnnotateRun(ctx context.Context, runID string, attempt int64, u RunUpdate) (bool, error) {
	return m.hitsOne(ctx, annotateRunSQL, seen{RunUpdate: u, RunID: runID, Attempt: attempt})
}

// endClaimSQL ends the claim on a run that something else than its cluster stops, so that the worker that holds the
// claim finds that the cluster must not keep the run. The owner of a run that a cluster has accepted stays, because the
// log is there.
const endClaimSQL = `claimed_by = CASE WHEN status = 'QUEUED' THEN NULL ELSE claimed_by END, claimed_until = NULL`

const stopRunSQL = `UPDATE task SET
		status = :to_status, exit_code = :exit_code, exit_reason = :reason, finished_at = now(), status_reason = NULL,
		` + endClaimSQL + `
	WHERE run_id = :run_id AND status = ANY(:guard)`

// stop is an end of a run that Flotilla decides, as arguments.
type stop struct {
	RunID    string         `db:"run_id"`
	Worker   string         `db:"worker"`
	Reason   string         `db:"reason"`
	ExitCode int64          `db:"exit_code"`
	To       Status         `db:"to_status"`
	Guard    pq.StringArray `db:"guard"`
}

// StopRun stops a run on a user's behalf in any status, with exit code 1 and the given reason. It returns the row as it
// is now, and reports whether this call stopped it. It returns MissingResource if there is no such run.
func (m *Manager) StopRun(ctx context.Context, runID, reason string) (Run, bool, error) {
	return m.moved(ctx, stopRunSQL+` RETURNING `+runColumns, runID, stop{
		RunID: runID, Reason: reason, ExitCode: ExitCodeNeverStarted, To: StatusStopped, Guard: guard(StatusStopped),
	})
}

// RejectRun stops a run that its cluster can never execute. It returns false if the worker does not hold its claim.
func (m *Manager) RejectRun(ctx context.Context, runID, worker, reason string) (bool, error) {
	return m.hitsOne(ctx, stopRunSQL+` AND claimed_by = :worker`, stop{
		RunID: runID, Worker: worker, Reason: reason,
		ExitCode: ExitCodeNeverStarted, To: StatusStopped, Guard: guard(StatusStopped, StatusQueued),
	})
}

// SelfReport is what a run reports about itself (rest-api.md, "Self-reported status"). nil means not reported.
type SelfReport struct {
	Status        Status
	ExitCode      *int64
	ExitReason    *string
	RunExceptions []string
}

const (
	// A self-reported stop ends a claim as stopRunSQL does. Any other move leaves it, because the cluster keeps the run.
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

// SelfReportRun records what a run reports about itself (rest-api.md, "Self-reported status"). It moves the run forward
// in its life; if there is no such move, it only adds an exit reason and exceptions that are absent. It returns the row
// as it is now, and reports whether it moved the run. It returns MalformedInput if the status is unknown, and
// MissingResource if there is no such run.
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

// reportGuard returns guard(to) without the moves back: a run cannot put itself in the queue.
func reportGuard(to Status) pq.StringArray {
	if to == StatusQueued {
		return pq.StringArray{}
	}
	return guard(to)
}

// EventTaskStatus is the event of the audit line of a run's change of status. Existing log searches look for this name.
const EventTaskStatus = "FlotillaTaskStatus"

// Auditor identifies the author of an audited change. Who is the email, else the token's name, else the owner that the
// request names.
type Auditor struct{ Who, Token, Email string }

// Program is the Auditor of changes that no user made, such as recording what a cluster reports.
var Program = Auditor{Who: "flotilla"}

// AuditLine returns the attributes that begin every audit line: the event, the author of the change, and the owner of
// what was changed.
func AuditLine(event string, by Auditor, owner string) []any {
	return []any{"event", event, "who", by.Who, "token", by.Token, "email", by.Email, "owner", owner}
}

// AuditStatus returns the attributes of the audit line of a run's change of status, for slog. The line is the same for
// every author. exit_code and exit_reason are left out while they are unknown.
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
