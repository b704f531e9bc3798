package state

import (
	"context"

	"github.com/lib/pq"
)

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
