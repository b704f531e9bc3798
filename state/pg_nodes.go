package state

import (
	"context"
	"time"

	"github.com/lib/pq"
)

// A run of a local cluster belongs to one node, a server with its data folder,
// from PENDING on: claimed_by is the node. instance_id says that the node has
// committed itself to starting the run; before that another node may have it.

// node is a change by or about nodes, as arguments.
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

// CommitStart records that the node starts the run's process. Only after a
// true answer may it do so: false says that the run was stopped, was given to
// another node, or was committed before.
func (m *Manager) CommitStart(ctx context.Context, runID, nodeName string) (bool, error) {
	return m.hitsOne(ctx, commitStartSQL, node{RunID: runID, Node: nodeName})
}

// requeuedSQL makes a run that no process was started for wait again. Its
// attempt was none.
const requeuedSQL = `status = :to_status, claimed_by = NULL, claimed_until = NULL, instance_id = '', status_reason = NULL`

const returnRunSQL = `UPDATE task SET ` + requeuedSQL + `
	WHERE run_id = :run_id AND status = ANY(:guard) AND claimed_by = :node`

// ReturnRun puts a PENDING run of the node back in the queue. The node must be
// sure that it never started the run's process.
func (m *Manager) ReturnRun(ctx context.Context, runID, nodeName string) (bool, error) {
	return m.hitsOne(ctx, returnRunSQL, node{
		RunID: runID, Node: nodeName, To: StatusQueued, Guard: guard(StatusQueued, StatusPending),
	})
}

const heartbeatSQL = `INSERT INTO flotilla_node (node, host, seen_at) VALUES ($1, $2, now())
	ON CONFLICT (node) DO UPDATE SET host = excluded.host, seen_at = excluded.seen_at`

// Heartbeat says that the node lives, on host. A node must have said so once
// before it accepts runs: only the runs of known nodes can become orphans.
func (m *Manager) Heartbeat(ctx context.Context, nodeName, host string) error {
	_, err := m.exec(ctx, heartbeatSQL, nodeName, host)
	return err
}

// silentNodesSQL are the nodes that have not been heard of for a time.
const silentNodesSQL = `(SELECT node FROM flotilla_node WHERE seen_at < now() - make_interval(secs => :silent))`

const requeueOrphansSQL = `UPDATE task SET ` + requeuedSQL + `
	WHERE status = ANY(:guard) AND status = 'PENDING' AND COALESCE(instance_id, '') = ''
	  AND claimed_by IN ` + silentNodesSQL

// RequeueOrphans puts the runs back in the queue that a node accepted and did
// not commit to before it fell silent for deadAfter. It counts them.
func (m *Manager) RequeueOrphans(ctx context.Context, deadAfter time.Duration) (int, error) {
	return m.update(ctx, requeueOrphansSQL, node{
		Silent: deadAfter.Seconds(), To: StatusQueued, Guard: guard(StatusQueued, StatusPending),
	})
}

// The exit code of a lost run is not known and stays NULL. Of the active runs, which are few, it is looked up which are
// the cluster's, and not the other way around: the planner may not know yet how many runs a new cluster has had.
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

// StopLost stops up to limit active runs of a local cluster's engine whose node
// has been silent for lostAfter, and returns them.
func (m *Manager) StopLost(ctx context.Context, key EngineKey, lostAfter time.Duration, limit int) ([]Run, error) {
	return m.changed(ctx, stopLostSQL, node{
		EngineKey: key, Silent: lostAfter.Seconds(), Limit: limit,
		To: StatusStopped, Reason: ReasonLost, Guard: guard(StatusStopped, StatusPending, StatusRunning),
	})
}
