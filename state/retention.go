package state

import (
	"context"
	"time"
)

// idempotenceWindow is how long an idempotence key stands for its run, as in runsByKeySQL.
const idempotenceWindow = 7 * 24 * time.Hour

const deleteOldRunsSQL = `DELETE FROM task
	WHERE run_id = ANY(ARRAY(
		SELECT run_id FROM task
		WHERE status = 'STOPPED'
		  AND queued_at < $1
		  AND COALESCE(finished_at, queued_at) < $1
		LIMIT $2
		FOR UPDATE SKIP LOCKED))`

// DeleteOldRuns deletes up to limit runs that ended before the given time, and returns how many; the caller calls it
// again until there are none. It always keeps the runs that lookups of history read (ARA's window, runtimes,
// idempotence keys).
func (m *Manager) DeleteOldRuns(ctx context.Context, before time.Time, limit int) (int, error) {
	if asked := m.clock().Add(-max(m.ara.Window, runtimeWindow, idempotenceWindow)); asked.Before(before) {
		before = asked
	}
	return m.exec(ctx, deleteOldRunsSQL, before, limit)
}

// The ids of all definitions that have runs are read by jumping along the index on definition_id, because the table is
// large and has few of them. Templates are never deleted. Runs of the old program that have neither a type nor a
// definition are kept.
const deleteOrphanRunsSQL = `DELETE FROM task
	WHERE run_id = ANY(ARRAY(
		WITH RECURSIVE ids AS (
			(SELECT definition_id FROM task WHERE definition_id IS NOT NULL ORDER BY definition_id LIMIT 1)
			UNION ALL
			SELECT (SELECT task.definition_id FROM task WHERE task.definition_id > ids.definition_id
				ORDER BY task.definition_id LIMIT 1)
			FROM ids
			WHERE ids.definition_id IS NOT NULL
		), gone AS (
			SELECT definition_id FROM ids
			WHERE definition_id IS NOT NULL
			  AND NOT EXISTS (SELECT FROM task_def WHERE task_def.definition_id = ids.definition_id)
		)
		SELECT task.run_id FROM task JOIN gone USING (definition_id)
		WHERE task.status = 'STOPPED' AND COALESCE(task.executable_type, 'task_definition') = 'task_definition'
		LIMIT $1))`

// DeleteOrphanRuns deletes up to limit runs of deleted definitions, and returns how many.
func (m *Manager) DeleteOrphanRuns(ctx context.Context, limit int) (int, error) {
	return m.exec(ctx, deleteOrphanRunsSQL, limit)
}
