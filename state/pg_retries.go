package state

import (
	"context"

	"github.com/lib/pq"
)

// retry is a RetryPolicy, as arguments.
type retry struct {
	MaxAttempts int            `db:"max_attempts"`
	BaseDelay   float64        `db:"base_delay"` // seconds
	MaxDelay    float64        `db:"max_delay"`  // seconds
	Limit       int            `db:"limit"`
	Engines     pq.StringArray `db:"engines"`
	To          Status         `db:"to_status"`
	Guard       pq.StringArray `db:"guard"`
}

// What the failed attempt left is taken off the run, but for the sizes (a
// retry keeps the first attempt's decision) and started_at (the deadline
// counts from the first start). The exponent is bounded because numbers are.
const requeueRetriesSQL = `UPDATE task SET
		status = :to_status,
		attempt_count = GREATEST(COALESCE(attempt_count, 1), 1) + 1,
		next_attempt_at = now() + make_interval(secs => LEAST(CAST(:max_delay AS float8),
			CAST(:base_delay AS float8) * power(2, LEAST(GREATEST(COALESCE(attempt_count, 1), 1) - 1, 60)))),
		status_reason = format('Attempt %s was lost to the cluster%s; it is tried again.',
			GREATEST(COALESCE(attempt_count, 1), 1), ' (' || exit_reason || ')'),
		exit_reason = NULL, claimed_by = NULL, claimed_until = NULL,
		instance_id = '', instance_dns_name = '', pod_name = NULL
	WHERE status = ANY(:guard) AND run_id = ANY(ARRAY(
		SELECT run_id FROM task
		WHERE status = 'NEEDS_RETRY' AND engine = ANY(:engines) AND COALESCE(attempt_count, 1) < :max_attempts
		ORDER BY queued_at, run_id
		LIMIT :limit
		FOR UPDATE SKIP LOCKED))
	RETURNING ` + runColumns

// A run that never had a container ends with 1; of others no code is known
// that is the command's own, and a code of ours must not teach ARA.
const stopRetriesSQL = `UPDATE task SET
		status = :to_status,
		exit_code = CASE WHEN started_at IS NULL THEN 1 END,
		finished_at = now(), status_reason = NULL
	WHERE status = ANY(:guard) AND run_id = ANY(ARRAY(
		SELECT run_id FROM task
		WHERE status = 'NEEDS_RETRY' AND engine = ANY(:engines) AND COALESCE(attempt_count, 1) >= :max_attempts
		ORDER BY queued_at, run_id
		LIMIT :limit
		FOR UPDATE SKIP LOCKED))
	RETURNING ` + runColumns

// RequeueRetries puts NEEDS_RETRY runs back in the queue, each for its next
// attempt and after a delay, and stops those that have used up their attempts;
// these keep the exit reason of the last one. It returns both.
func (m *Manager) RequeueRetries(ctx context.Context, p RetryPolicy) (requeued, stopped []Run, err error) {
	arg := retry{
		MaxAttempts: p.MaxAttempts, BaseDelay: p.BaseDelay.Seconds(), MaxDelay: p.MaxDelay.Seconds(), Limit: p.Limit, Engines: p.Engines,
		To: StatusStopped, Guard: guard(StatusStopped, StatusNeedsRetry),
	}
	if stopped, err = m.changed(ctx, stopRetriesSQL, arg); err != nil {
		return nil, nil, err
	}
	arg.To, arg.Guard = StatusQueued, guard(StatusQueued, StatusNeedsRetry)
	requeued, err = m.changed(ctx, requeueRetriesSQL, arg)
	return requeued, stopped, err
}
