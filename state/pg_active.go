package state

import (
	"context"
	"time"

	"github.com/lib/pq"

	"github.com/stitchfix/flotilla-os/state/database"
)

// idUnindexed orders by run_id and by no index: where few of very many runs are wanted, the planner has to begin with
// those few, and cannot go through all runs in the order asked for.
const idUnindexed = `(run_id || '')`

const activeRunsSQL = `SELECT ` + runColumns + ` FROM task
	WHERE COALESCE(cluster_name, '') = $1 AND engine = $5 AND status IN ('PENDING', 'RUNNING')
	  AND ($2 = '' OR claimed_by = $2)
	  AND ` + idUnindexed + ` > $3
	ORDER BY ` + idUnindexed + `
	LIMIT $4`

// ActiveRuns returns the PENDING and RUNNING runs of an engine page by page, in
// the order of their ids: up to limit of them behind the id after, which is
// empty for the first page. If nodeName is not empty, only those of that node.
func (m *Manager) ActiveRuns(ctx context.Context, key EngineKey, nodeName, after string, limit int) ([]Run, error) {
	return m.selectRuns(ctx, activeRunsSQL, key.Cluster, nodeName, after, limit, key.Engine)
}

// selectRuns reads rows of runColumns.
func (m *Manager) selectRuns(ctx context.Context, text string, args ...any) ([]Run, error) {
	return m.readRuns(ctx, func(rows any) error { return m.db.SelectContext(ctx, rows, text, args...) })
}

const stoppedAmongSQL = `SELECT id FROM unnest($1::varchar[]) AS id
	WHERE NOT EXISTS (SELECT FROM task WHERE run_id = id AND status <> 'STOPPED')
	ORDER BY id`

// StoppedAmong returns those of the ids whose run is STOPPED, or gone, in order.
func (m *Manager) StoppedAmong(ctx context.Context, runIDs []string) ([]string, error) {
	var stopped []string
	err := m.db.SelectContext(ctx, &stopped, stoppedAmongSQL, pq.StringArray(runIDs))
	if err != nil {
		return nil, interpretError(err)
	}
	return stopped, nil
}

// A run in its second attempt has started and may be PENDING again. The order
// is by an expression so that the planner reads the active runs, which are few,
// and not all runs in the order of an index.
const overdueRunsSQL = `SELECT ` + runColumns + ` FROM task
	WHERE status IN ('PENDING', 'RUNNING') AND engine = ANY($3)
	  AND started_at + make_interval(secs => active_deadline_seconds + CAST($1 AS float8)) < now()
	ORDER BY started_at + make_interval(secs => active_deadline_seconds), run_id
	LIMIT $2`

// OverdueRuns returns up to limit active runs of the engines that are more than
// grace past their deadline, the most overdue first.
func (m *Manager) OverdueRuns(ctx context.Context, engines []string, grace time.Duration, limit int) ([]Run, error) {
	return m.selectRuns(ctx, overdueRunsSQL, grace.Seconds(), limit, pq.StringArray(engines))
}

const queueDepthsSQL = `SELECT COALESCE(cluster_name, '') AS cluster_name, engine,
		count(*) FILTER (WHERE status = 'QUEUED') AS queued,
		count(*) FILTER (WHERE status IN ('PENDING', 'RUNNING')) AS active,
		COALESCE(EXTRACT(epoch FROM now() - min(queued_at) FILTER (WHERE status = 'QUEUED')), 0) AS oldest_age
	FROM task
	WHERE status IN ('QUEUED', 'PENDING', 'RUNNING')
	GROUP BY 1, 2
	ORDER BY 1, 2`

// QueueDepths counts what waits and what runs, for each engine that has runs.
func (m *Manager) QueueDepths(ctx context.Context) ([]QueueDepth, error) {
	var depths []QueueDepth
	if err := m.db.SelectContext(ctx, &depths, queueDepthsSQL); err != nil {
		return nil, interpretError(err)
	}
	return depths, nil
}

// LockHeld reports whether any server leads under a name (database.Locker).
func (m *Manager) LockHeld(ctx context.Context, name string) (bool, error) {
	held, err := database.LockHeld(ctx, m.db.DB, name)
	return held, interpretError(err)
}
