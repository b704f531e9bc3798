package state

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/lib/pq"
)

// ClaimRequest describes a claim on queued runs of one engine.
type ClaimRequest struct {
	EngineKey
	// Worker is the claimant, unique to a process.
	Worker string
	// Lease is how long the claim holds.
	Lease time.Duration
	// Limit is the most runs to claim.
	Limit int
}

// claimRunsSQL takes a lease on the oldest waiting runs of one engine. It skips rows that another claimant locks. The
// inner SELECT is an array so that it runs once in any plan, and never locks more than the limit.
const claimRunsSQL = `UPDATE task SET
		claimed_by = :worker, claimed_until = now() + make_interval(secs => :lease)
	WHERE run_id = ANY(ARRAY(
		SELECT run_id FROM task
		WHERE status = 'QUEUED' AND cluster_name = :cluster_name AND engine = :engine
		  AND (next_attempt_at IS NULL OR next_attempt_at <= now())
		  AND (claimed_until IS NULL OR claimed_until <= now())
		ORDER BY queued_at, run_id
		LIMIT :limit
		FOR UPDATE SKIP LOCKED))
	RETURNING ` + runColumns

// claim holds a lease, as arguments.
type claim struct {
	EngineKey
	Worker string         `db:"worker"`
	Lease  float64        `db:"lease"` // seconds
	Limit  int            `db:"limit"`
	RunIDs pq.StringArray `db:"run_ids"`
}

// ClaimRuns leases QUEUED runs of an engine to a worker and returns them, oldest first. A run belongs to one worker at
// a time. It can be claimed again when its lease has ended or its worker has released it. Runs that must wait
// (DeferRun, RequeueRetries) are left.
func (m *Manager) ClaimRuns(ctx context.Context, req ClaimRequest) ([]Run, error) {
	runs, err := m.changed(ctx, claimRunsSQL, claim{
		EngineKey: req.EngineKey, Worker: req.Worker, Lease: req.Lease.Seconds(), Limit: req.Limit,
	})
	if err != nil {
		return nil, err
	}
	// RETURNING keeps no order.
	slices.SortFunc(runs, func(a, b Run) int {
		if a.QueuedAt != nil && b.QueuedAt != nil {
			if c := a.QueuedAt.Compare(*b.QueuedAt); c != 0 {
				return c
			}
		}
		return cmp.Compare(a.RunID, b.RunID)
	})
	return runs, nil
}

const renewClaimsSQL = `UPDATE task SET claimed_until = now() + make_interval(secs => :lease)
	WHERE run_id = ANY(:run_ids) AND status = 'QUEUED' AND claimed_by = :worker`

// RenewClaims renews the leases of those of the runs that the worker still holds.
func (m *Manager) RenewClaims(ctx context.Context, worker string, runIDs []string, lease time.Duration) error {
	_, err := m.update(ctx, renewClaimsSQL, claim{Worker: worker, RunIDs: runIDs, Lease: lease.Seconds()})
	return err
}

const releaseClaimsSQL = `UPDATE task SET claimed_by = NULL, claimed_until = NULL
	WHERE status = 'QUEUED' AND claimed_by = $1`

// ReleaseClaims releases all QUEUED runs that the worker holds.
func (m *Manager) ReleaseClaims(ctx context.Context, worker string) error {
	_, err := m.exec(ctx, releaseClaimsSQL, worker)
	return err
}

const deferRunSQL = `UPDATE task SET
		claimed_by = NULL, claimed_until = NULL, status_reason = $3, next_attempt_at = $4
	WHERE run_id = $1 AND status = 'QUEUED' AND claimed_by = $2`

// DeferRun releases a claimed run. The run waits in the queue at least until next, with reason as its status reason. A
// run that the worker does not hold stays as it is.
func (m *Manager) DeferRun(ctx context.Context, runID, worker, reason string, next time.Time) error {
	_, err := m.exec(ctx, deferRunSQL, runID, worker, reason, next)
	return err
}

// Acceptance is what a cluster gave a run when it accepted it.
type Acceptance struct {
	Size       // requested of the cluster; 0 is unknown
	Limit Size `db:"limit"`
	// Node owns the run from now on. It is empty unless the cluster is local.
	Node string `db:"node"`
	// InstanceID is set together with Node if the node starts the run at once, see Manager.CommitStart.
	InstanceID    string  `db:"instance_id"`
	PodName       *string `db:"pod_name"`
	Namespace     *string `db:"namespace"`
	ContainerName *string `db:"container_name"`
}

// acceptedSQL sets what the cluster gave the run. A size of 0 is unknown.
const acceptedSQL = `memory = COALESCE(NULLIF(:memory, 0), memory),
		memory_limit = COALESCE(NULLIF(:limit.memory, 0), memory_limit),
		cpu = COALESCE(NULLIF(:cpu, 0), cpu),
		cpu_limit = COALESCE(NULLIF(:limit.cpu, 0), cpu_limit),
		attempt_count = COALESCE(attempt_count, 1),
		claimed_by = NULLIF(:node, ''), claimed_until = NULL,
		instance_id = COALESCE(NULLIF(:instance_id, ''), instance_id),
		pod_name = COALESCE(:pod_name, pod_name),
		namespace = COALESCE(:namespace, namespace),
		container_name = COALESCE(:container_name, container_name)`

const (
	acceptRunSQL = `UPDATE task SET
		status = :to_status, status_reason = NULL, next_attempt_at = NULL,
		` + acceptedSQL + `
	WHERE run_id = :run_id AND claimed_by = :worker AND status = ANY(:guard)`

	// A cluster's follower may move the run before the worker that created it there does. Such a run has left the queue
	// and still has its claim, which a user's stop would have ended (stopRunSQL).
	acceptSeenRunSQL = `UPDATE task SET ` + acceptedSQL + `
	WHERE run_id = :run_id AND claimed_by = :worker AND status <> 'QUEUED'`
)

// AcceptRun records that the cluster has a claimed run and what it gave it: QUEUED becomes PENDING, the claim ends, and
// a local run belongs to a.Node from now on. If the cluster's follower was faster, the status stays and only the sizes
// are recorded. It returns false if the run is no longer the worker's: a user stopped it, or another worker claimed it.
// The cluster must then not keep it.
func (m *Manager) AcceptRun(ctx context.Context, runID, worker string, a Acceptance) (bool, error) {
	arg := struct {
		Acceptance
		RunID  string         `db:"run_id"`
		Worker string         `db:"worker"`
		To     Status         `db:"to_status"`
		Guard  pq.StringArray `db:"guard"`
	}{a, runID, worker, StatusPending, guard(StatusPending)}
	accepted, err := m.hitsOne(ctx, acceptRunSQL, arg)
	if err != nil || accepted {
		return accepted, err
	}
	return m.hitsOne(ctx, acceptSeenRunSQL, arg)
}

const explainQueuedSQL = `UPDATE task SET status_reason = $2
	WHERE run_id = ANY(ARRAY(
		SELECT run_id FROM task
		WHERE status = 'QUEUED' AND cluster_name = $1 AND engine = $4
		  AND (claimed_until IS NULL OR claimed_until <= now())
		  AND status_reason IS DISTINCT FROM $2
		ORDER BY queued_at, run_id
		LIMIT $3
		FOR UPDATE SKIP LOCKED))`

// ExplainQueued sets the status reason of up to limit runs that wait for an engine, the oldest first. It returns how
// many had another reason.
func (m *Manager) ExplainQueued(ctx context.Context, key EngineKey, reason string, limit int) (int, error) {
	return m.exec(ctx, explainQueuedSQL, key.Cluster, reason, limit, key.Engine)
}

// RetryPolicy bounds the attempts at a run after infrastructure failures.
type RetryPolicy struct {
	// MaxAttempts counts the first one.
	MaxAttempts int
	// BaseDelay is the wait before the second attempt. It doubles with each further attempt, up to MaxDelay.
	BaseDelay, MaxDelay time.Duration
	// Limit is the most runs to look at.
	Limit int
	// Engines are the engines of the runs to look at.
	Engines []string
}

// retry holds a RetryPolicy, as arguments.
type retry struct {
	MaxAttempts int            `db:"max_attempts"`
	BaseDelay   float64        `db:"base_delay"` // seconds
	MaxDelay    float64        `db:"max_delay"`  // seconds
	Limit       int            `db:"limit"`
	Engines     pq.StringArray `db:"engines"`
	To          Status         `db:"to_status"`
	Guard       pq.StringArray `db:"guard"`
}

// requeueRetriesSQL clears what the failed attempt left, except the sizes (a retry keeps the first attempt's decision)
// and started_at (the deadline counts from the first start). The exponent is bounded to avoid an overflow.
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

// stopRetriesSQL ends a run that never had a container with 1. It gives other runs no code, because that of the command
// is not known, and a code of ours must not teach ARA.
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

// RequeueRetries puts NEEDS_RETRY runs back in the queue, each for its next attempt and after a delay, and stops those
// that have used up their attempts, with the exit reason of the last one. It returns both.
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

// QueueDepth counts the runs of one engine that are not over.
type QueueDepth struct {
	EngineKey
	// Queued counts QUEUED runs; Active counts PENDING and RUNNING ones.
	Queued int64 `db:"queued"`
	Active int64 `db:"active"`
	// OldestAge is the age in seconds of the oldest QUEUED run, 0 if there is none.
	OldestAge float64 `db:"oldest_age"`
}

const queueDepthsSQL = `SELECT COALESCE(cluster_name, '') AS cluster_name, engine,
		count(*) FILTER (WHERE status = 'QUEUED') AS queued,
		count(*) FILTER (WHERE status IN ('PENDING', 'RUNNING')) AS active,
		COALESCE(EXTRACT(epoch FROM now() - min(queued_at) FILTER (WHERE status = 'QUEUED')), 0) AS oldest_age
	FROM task
	WHERE status IN ('QUEUED', 'PENDING', 'RUNNING')
	GROUP BY 1, 2
	ORDER BY 1, 2`

// QueueDepths returns the depth of the queue of each engine that has runs that are not over.
func (m *Manager) QueueDepths(ctx context.Context) ([]QueueDepth, error) {
	var depths []QueueDepth
	err := m.db.SelectContext(ctx, &depths, queueDepthsSQL)
	return depths, interpretError(err)
}
