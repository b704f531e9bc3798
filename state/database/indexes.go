package database

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"strings"

	"github.com/jmoiron/sqlx"
)

// index is an index that this program needs beside the keys.
type index struct {
	name  string
	table string
	// definition is what follows USING, as pg_get_indexdef writes it if an existing database may have the same index
	// under another name.
	definition string
}

// indexes begins with those that the queue and ARA need.
//
// Lists: each column that runs can be sorted by has one index, which serves both directions, and the definition has one
// for each order in which its history is read, because a definition may own any share of the table. They include the
// engine, by which every list is filtered, so that a count needs the index alone.
var indexes = []index{
	// Claims, active runs of a cluster, retries, queue depths.
	{"flotilla_task_live", "task", "btree (status, cluster_name, queued_at, run_id) WHERE status <> 'STOPPED'"},
	// ARA's lookup (ara.md section 2): its cost is that of the runs killed for memory, not of all runs of the
	// definition.
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

// BuildIndexes builds the indexes that the database lacks, one at a time and beside the running program, which is only
// slower without them. It may take hours on a large database. One replica builds; the others wait until it is done.
// Indexes that an interrupted build left invalid are built again.
func BuildIndexes(ctx context.Context, url string, logger *slog.Logger) error {
	return maintainIndexes(ctx, url, func(conn *sql.Conn, db *sqlx.DB) error {
		for _, want := range indexes {
			if err := want.build(ctx, conn, db, logger); err != nil {
				return fmt.Errorf("index %s: %w", want.name, err)
			}
		}
		return nil
	})
}

// build builds the index if neither it nor an equal one exists. A statement that ran into a lock may have left the
// index invalid, so each attempt begins anew. CONCURRENTLY does not run inside a transaction.
func (i index) build(ctx context.Context, conn *sql.Conn, db *sqlx.DB, logger *slog.Logger) error {
	return untilUnlocked(ctx, logger, "build of index "+i.name, func() error {
		done, broken, err := i.find(ctx, db)
		if done || err != nil {
			return err
		}
		if broken {
			if _, err := conn.ExecContext(ctx, `DROP INDEX CONCURRENTLY IF EXISTS `+i.name); err != nil {
				return err
			}
		}
		logger.Info("building index", "index", i.name)
		_, err = conn.ExecContext(ctx, `CREATE INDEX CONCURRENTLY `+i.name+` ON `+i.table+` USING `+i.definition)
		return err
	})
}

// find reports whether a valid index equal to i exists, and whether an invalid one of its name does.
func (i index) find(ctx context.Context, q sqlx.QueryerContext) (valid, broken bool, err error) {
	var found []struct {
		Name       string `db:"relname"`
		Valid      bool   `db:"indisvalid"`
		Definition string `db:"definition"`
	}
	err = sqlx.SelectContext(ctx, q, &found, `
		SELECT c.relname, i.indisvalid, pg_get_indexdef(i.indexrelid) AS definition
		FROM pg_index i
		JOIN pg_class c ON c.oid = i.indexrelid
		WHERE i.indrelid = to_regclass($1)`, i.table)
	for _, f := range found {
		_, using, _ := strings.Cut(f.Definition, " USING ")
		valid = valid || f.Valid && (f.Name == i.name || using == i.definition)
		broken = broken || !f.Valid && f.Name == i.name
	}
	return valid, broken, err
}
