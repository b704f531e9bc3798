package state

import (
	"context"

	"github.com/lib/pq"
)

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
