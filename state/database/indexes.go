package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// index is one index that this program wants beside the keys.
type index struct {
	name  string
	table string
	// definition is what follows USING, as pg_get_indexdef writes it where
	// an existing database may have the same index under another name.
	definition string
}

// indexes are all of them, those first that the queue and ARA need.
//
// The lists: each column that runs can be sorted by has one index, which
// serves both directions (see pg_runs_list.go), and the definition has one for
// each order that its history is looked at in, because a definition may own
// any share of the table. They carry the engine, by which every list is
// filtered, so that a count needs the index alone.
var indexes = []index{
	// Claims, active runs of a cluster, retries, queue depths.
	{"flotilla_task_live", "task", "btree (status, cluster_name, queued_at, run_id) WHERE status <> 'STOPPED'"},
	// ARA's lookup (ara.md section 2): its cost is that of the runs killed for
	// memory, not of all runs of the definition.
	{"flotilla_task_killed", "task", "btree (definition_id, command_hash, queued_at DESC) INCLUDE (memory, cpu) " +
		"WHERE engine = 'eks' AND (exit_code = 137 OR exit_reason = 'OOMKilled') AND exit_code IS DISTINCT FROM 0"},
	// How long runs of a command took.
	{"flotilla_task_runtime", "task", "btree (definition_id, command_hash, started_at DESC) INCLUDE (finished_at) " +
		"WHERE started_at IS NOT NULL AND finished_at IS NOT NULL"},
	{"flotilla_task_idempotence", "task", "btree (idempotence_key, queued_at DESC) WHERE idempotence_key IS NOT NULL"},
	// Filters by environment, and the children of a run.
	{"flotilla_task_env", "task", "gin (env jsonb_path_ops)"},
	{"flotilla_task_group", "task", "btree (group_name, run_id) INCLUDE (engine)"},
	{"flotilla_task_queued", "task", "btree (queued_at, run_id) INCLUDE (engine)"},
	{"flotilla_task_started", "task", "btree (started_at, run_id) INCLUDE (engine)"},
	{"flotilla_task_finished", "task", "btree (finished_at, run_id) INCLUDE (engine)"},
	{"flotilla_task_status", "task", "btree (status, run_id) INCLUDE (engine)"},
	{"flotilla_task_cluster", "task", "btree (cluster_name, run_id) INCLUDE (engine)"},
	{"flotilla_task_definition_group", "task", "btree (definition_id, group_name, run_id) INCLUDE (engine)"},
	{"flotilla_task_definition_queued", "task", "btree (definition_id, queued_at, run_id) INCLUDE (engine)"},
	{"flotilla_task_definition_started", "task", "btree (definition_id, started_at, run_id) INCLUDE (engine)"},
	{"flotilla_task_executable_group", "task", "btree (executable_id, group_name, run_id) INCLUDE (engine)"},
	{"flotilla_task_def_tags_definition", "task_def_tags", "btree (task_def_id)"},
}

// BuildIndexes builds the indexes that the database lacks, one at a time and
// beside the running program, which only is slower without them. It may take
// hours on a large database. One replica builds; the others wait until it is
// done. Indexes that an interrupted build left invalid are built again.
func BuildIndexes(ctx context.Context, url string, logger *slog.Logger) (err error) {
	db, err := openMaintenance(url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	// The lock lives as long as this session does; nothing else uses it.
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := pollLock(ctx, conn, indexLock); err != nil {
		return err
	}
	for _, want := range indexes {
		if err := want.build(ctx, conn, logger); err != nil {
			return fmt.Errorf("index %s: %w", want.name, err)
		}
	}
	return nil
}

// build makes the index where neither it nor one like it is there.
func (i index) build(ctx context.Context, conn *sql.Conn, logger *slog.Logger) error {
	for {
		done, err := i.tidy(ctx, conn)
		if done || err != nil {
			return err
		}
		logger.Info("building index", "index", i.name)
		// CONCURRENTLY does not run inside a transaction.
		_, err = conn.ExecContext(ctx, `CREATE INDEX CONCURRENTLY `+i.name+` ON `+i.table+` USING `+i.definition)
		if !isLockTimeout(err) {
			return err
		}
		logger.Warn("building an index met a lock; it is tried again", "index", i.name, "error", err)
		if err := pause(ctx, tableLockPause); err != nil {
			return err
		}
	}
}

const selectIndexesSQL = `
SELECT c.relname, i.indisvalid, pg_get_indexdef(i.indexrelid)
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = to_regclass($1)`

// tidy reports whether a valid index like i is there, and drops an invalid
// one of its name.
func (i index) tidy(ctx context.Context, conn *sql.Conn) (done bool, err error) {
	rows, err := conn.QueryContext(ctx, selectIndexesSQL, i.table)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var broken bool
	for rows.Next() {
		var name, definition string
		var valid bool
		if err := rows.Scan(&name, &valid, &definition); err != nil {
			return false, err
		}
		_, using, _ := strings.Cut(definition, " USING ")
		done = done || valid && (name == i.name || using == i.definition)
		broken = broken || !valid && name == i.name
	}
	if err := rows.Err(); err != nil || !broken {
		return done, err
	}
	if err := rows.Close(); err != nil {
		return false, err
	}
	_, err = conn.ExecContext(ctx, `DROP INDEX CONCURRENTLY IF EXISTS `+i.name)
	return done, err
}
