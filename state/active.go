package state

import (
	"context"
	"time"

	"github.com/lib/pq"

	"github.com/stitchfix/flotilla-os/state/database"
)

// idUnindexed orders by run_id without an index. If few of very many runs are wanted, the planner must then begin with
// those few, and cannot read all runs in order.
const idUnindexed = `(run_id || '')`

const activeRunsSQL = `SELECT ` + runColumns + ` FROM task
	WHERE COALESCE(cluster_name, '') = $1 AND engine = $5 AND status IN ('PENDING', 'RUNNING')
	  AND ($2 = '' OR claimed_by = $2)
	  AND ` + idUnindexed + ` > $3
	ORDER BY ` + idUnindexed + `
	LIMIT $4`

// ActiveRuns returns a page of the PENDING and RUNNING runs of an engine, in the order of their ids: up to limit of
// them behind the id after, which is empty for the first page. If nodeName is not empty, it returns only those of that
// node.
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
	return stopped, interpretError(err)
}

// A run in its second attempt has started and may be PENDING again. The order is by an expression so that the planner
// reads the active runs, which are few, and not all runs in the order of an index.
const overdueRunsSQL = `SELECT ` + runColumns + ` FROM task
	WHERE status IN ('PENDING', 'RUNNING') AND engine = ANY($3)
	  AND started_at + make_interval(secs => active_deadline_seconds + CAST($1 AS float8)) < now()
	ORDER BY started_at + make_interval(secs => active_deadline_seconds), run_id
	LIMIT $2`

// OverdueRuns returns up to limit active runs of the engines that are more than grace past their deadline, the most
// overdue first.
func (m *Manager) OverdueRuns(ctx context.Context, engines []string, grace time.Duration, limit int) ([]Run, error) {
	return m.selectRuns(ctx, overdueRunsSQL, grace.Seconds(), limit, pq.StringArray(engines))
}

// LockHeld reports whether any server leads under a name (database.Locker).
func (m *Manager) LockHeld(ctx context.Context, name string) (bool, error) {
	held, err := database.LockHeld(ctx, m.db.DB, name)
	return held, interpretError(err)
}

// node holds a change by or about nodes, as arguments.
//
// From PENDING on, a run of a local cluster belongs to one node, a server with its data folder: claimed_by is the node.
// instance_id is set once the node has committed itself to starting the run. Before that another node may get the run.
type node struct {
	RunID string `db:"run_id"`
	Node  string `db:"node"`
	EngineKey
	Silent float64        `db:"silent"` // seconds
	Limit  int            `db:"limit"`
	To     Status         `db:"to_status"`
	Reason string         `db:"reason"`
	Guard  pq.StringArray `db:"guard"`
}

const commitStartSQL = `UPDATE task SET instance_id = :node
	WHERE run_id = :run_id AND status = 'PENDING' AND claimed_by = :node AND COALESCE(instance_id, '') = ''`

// CommitStart records that the node starts the run's process. The node must not start it if CommitStart returns false:
// the run was stopped, was given to another node, or was committed before.
func (m *Manager) CommitStart(ctx context.Context, runID, nodeName string) (bool, error) {
	return m.hitsOne(ctx, commitStartSQL, node{RunID: runID, Node: nodeName})
}

// requeuedSQL puts a run back in the queue whose process was never started. That does not count as an attempt.
const requeuedSQL = `status = :to_status, claimed_by = NULL, claimed_until = NULL, instance_id = '', status_reason = NULL`

const returnRunSQL = `UPDATE task SET ` + requeuedSQL + `
	WHERE run_id = :run_id AND status = ANY(:guard) AND claimed_by = :node`

// ReturnRun puts a PENDING run of the node back in the queue. The node must never have started the run's process.
func (m *Manager) ReturnRun(ctx context.Context, runID, nodeName string) (bool, error) {
	return m.hitsOne(ctx, returnRunSQL, node{
		RunID: runID, Node: nodeName, To: StatusQueued, Guard: guard(StatusQueued, StatusPending),
	})
}

const heartbeatSQL = `INSERT INTO flotilla_node (node, host, seen_at) VALUES ($1, $2, now())
	ON CONFLICT (node) DO UPDATE SET host = excluded.host, seen_at = excluded.seen_at`

// Heartbeat records that the node is alive, on host. A node must call it before it accepts runs, because only the runs
// of known nodes can become orphans.
func (m *Manager) Heartbeat(ctx context.Context, nodeName, host string) error {
	_, err := m.exec(ctx, heartbeatSQL, nodeName, host)
	return err
}

// silentNodesSQL selects the nodes without a heartbeat for some time.
const silentNodesSQL = `(SELECT node FROM flotilla_node WHERE seen_at < now() - make_interval(secs => :silent))`

const requeueOrphansSQL = `UPDATE task SET ` + requeuedSQL + `
	WHERE status = ANY(:guard) AND status = 'PENDING' AND COALESCE(instance_id, '') = ''
	  AND claimed_by IN ` + silentNodesSQL

// RequeueOrphans puts runs back in the queue that a node accepted and did not commit to before it fell silent for
// deadAfter. It returns how many there were.
func (m *Manager) RequeueOrphans(ctx context.Context, deadAfter time.Duration) (int, error) {
	return m.update(ctx, requeueOrphansSQL, node{
		Silent: deadAfter.Seconds(), To: StatusQueued, Guard: guard(StatusQueued, StatusPending),
	})
}

// The exit code of a lost run is not known and stays NULL. The statement begins with the active runs, which are few,
// and not with the cluster's: the planner may not know yet how many runs a new cluster has had.
const stopLostSQL = `UPDATE task SET
		status = :to_status, exit_code = NULL, exit_reason = :reason, finished_at = now(), status_reason = NULL
	WHERE status = ANY(:guard) AND run_id = ANY(ARRAY(
		SELECT run_id FROM task
		WHERE status IN ('PENDING', 'RUNNING') AND COALESCE(cluster_name, '') = :cluster_name AND engine = :engine
		  AND claimed_by IN ` + silentNodesSQL + `
		ORDER BY ` + idUnindexed + `
		LIMIT :limit
		FOR UPDATE SKIP LOCKED))
	RETURNING ` + runColumns

// StopLost stops up to limit active runs of a local cluster's engine whose node has been silent for lostAfter, and
// returns them.
func (m *Manager) StopLost(ctx context.Context, key EngineKey, lostAfter time.Duration, limit int) ([]Run, error) {
	return m.changed(ctx, stopLostSQL, node{
		EngineKey: key, Silent: lostAfter.Seconds(), Limit: limit,
		To: StatusStopped, Reason: ReasonLost, Guard: guard(StatusStopped, StatusPending, StatusRunning),
	})
}
