package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// SchemaReport is what Inspect found.
type SchemaReport struct {
	// Missing lists what Migrate would add: tables, and columns as table.column.
	Missing []string `json:"missing"`
	// ForeignKeys lists the constraints that Migrate would drop.
	ForeignKeys []string `json:"foreign_keys"`
	// NotOwned lists the tables that the role may not change, and "schema" if it may not create tables. Migrate fails
	// if it is not empty and there is something to do.
	NotOwned []string `json:"not_owned"`
	// MissingIndexes lists what BuildIndexes would build.
	MissingIndexes []string `json:"missing_indexes"`
	// InvalidIndexes lists what interrupted builds left.
	InvalidIndexes []string      `json:"invalid_indexes"`
	UnusedIndexes  []UnusedIndex `json:"unused_indexes"`
}

// UnusedIndex is an index of the old program that no query of ours needs.
type UnusedIndex struct {
	Name       string `db:"name" json:"name"`
	Definition string `db:"definition" json:"definition"`
	// SizeBytes is its size on disk.
	SizeBytes int64 `db:"size_bytes" json:"size_bytes"`
	// Scans is how often it was read, and Writes how many row versions entered it at most, since the server's
	// statistics began.
	Scans  int64 `db:"scans" json:"scans"`
	Writes int64 `db:"writes" json:"writes"`
	// Reason is why no query of ours needs it.
	Reason string `json:"reason"`
}

// Inspect compares the schema with what this program needs. It changes nothing, and works on a database that was never
// migrated.
func Inspect(ctx context.Context, db sqlx.ExtContext) (r SchemaReport, err error) {
	owned := map[string]bool{}
	for _, m := range migrations {
		missing, err := m.missing(ctx, db)
		if err != nil {
			return r, err
		}
		var table struct {
			Exists bool `db:"is_there"`
			Owned  bool `db:"owned"`
		}
		err = sqlx.GetContext(ctx, db, &table, `SELECT to_regclass($1) IS NOT NULL AS is_there, COALESCE((
			SELECT pg_has_role(current_user, relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass($1)), true) AS owned`, m.table)
		if err != nil {
			return r, err
		}
		if !table.Exists && m.create != "" {
			r.Missing = append(r.Missing, m.table)
			continue
		}
		for _, c := range missing {
			r.Missing = append(r.Missing, m.table+"."+c.name)
		}
		if !table.Owned && !owned[m.table] {
			owned[m.table] = true
			r.NotOwned = append(r.NotOwned, m.table)
		}
	}
	var mayCreate bool
	if err := sqlx.GetContext(ctx, db, &mayCreate, `SELECT has_schema_privilege(current_schema(), 'CREATE')`); err != nil {
		return r, err
	}
	if !mayCreate {
		r.NotOwned = append(r.NotOwned, "schema")
	}
	err = sqlx.SelectContext(ctx, db, &r.ForeignKeys, `SELECT conname FROM pg_constraint WHERE contype = 'f'
		AND conrelid = to_regclass('task') AND confrelid = to_regclass('task_def') ORDER BY conname`)
	if err != nil {
		return r, err
	}
	err = sqlx.SelectContext(ctx, db, &r.InvalidIndexes, `SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
		WHERE NOT i.indisvalid AND c.relnamespace = current_schema()::regnamespace ORDER BY c.relname`)
	if err != nil {
		return r, err
	}
	for _, want := range indexes {
		there, _, err := want.find(ctx, db)
		if err != nil {
			return r, err
		}
		if !there {
			r.MissingIndexes = append(r.MissingIndexes, want.name)
		}
	}
	r.UnusedIndexes, err = unusedIndexes(ctx, db)
	return r, err
}

// superseded are the indexes that existing databases have on task (data-model.md, Tables today) and no query of ours
// needs, by their definition, with the reason. The tests of plans show that ours suffice: they run on a database that
// has none of these. The index on env stays, because ours is the same; so do keys.
var superseded = map[string]string{
	"btree (definition_id)":                                     "flotilla_task_definition_queued begins with the same column",
	"btree (definition_id, started_at)":                         "flotilla_task_definition_started begins with the same columns",
	"btree (definition_id, started_at DESC)":                    "flotilla_task_definition_started is read in both directions",
	"btree (definition_id, started_at DESC NULLS LAST)":         "flotilla_task_definition_started is read in both directions",
	"btree (definition_id, started_at DESC NULLS LAST, engine)": "flotilla_task_definition_started is read in both directions",
	"btree (definition_id, engine, started_at DESC)":            "flotilla_task_definition_started holds the same columns",
	"btree (definition_id, engine, started_at DESC NULLS LAST)": "flotilla_task_definition_started holds the same columns",
	"btree (cluster_name)":                                      "flotilla_task_cluster begins with the same column",
	"btree (cluster_name, status, finished_at DESC)":            "flotilla_task_live and flotilla_task_cluster serve such lists",
	"btree (cluster_name, status, finished_at DESC NULLS LAST)": "flotilla_task_live and flotilla_task_cluster serve such lists",
	"btree (status)":                                            "flotilla_task_status begins with the same column",
	"btree (group_name)":                                        "flotilla_task_group begins with the same column",
	"btree (queued_at)":                                         "flotilla_task_queued begins with the same column",
	"btree (queued_at, status, engine)":                         "flotilla_task_queued and flotilla_task_live serve such lists",
	"btree (task_arn)":                                          "task_arn belongs to ECS; no run of ours has one",
	"btree (executable_id)":                                     "flotilla_task_executable_group begins with the same column",
	"btree (executable_id, started_at)":                         "flotilla_task_executable_group begins with the same column",
	"btree (executable_id, started_at DESC)":                    "flotilla_task_executable_group begins with the same column",
	"btree (executable_id, started_at DESC NULLS LAST)":         "flotilla_task_executable_group begins with the same column",
	"btree (executable_id, started_at DESC NULLS LAST, engine)": "flotilla_task_executable_group begins with the same column",
	"gin (pod_events)":                                          "no query filters runs by their events",
	"gin (pod_events jsonb_path_ops)":                           "no query filters runs by their events",
}

// unusedIndexes returns the superseded indexes of the database, the largest first. Keys and constraints are never among
// them.
func unusedIndexes(ctx context.Context, q sqlx.QueryerContext) (unused []UnusedIndex, err error) {
	var all []UnusedIndex
	err = sqlx.SelectContext(ctx, q, &all, `
		SELECT c.relname AS name, pg_get_indexdef(i.indexrelid) AS definition, pg_relation_size(i.indexrelid) AS size_bytes,
			COALESCE(s.idx_scan, 0) AS scans, COALESCE(t.n_tup_ins + t.n_tup_upd - t.n_tup_hot_upd, 0) AS writes
		FROM pg_index i
		JOIN pg_class c ON c.oid = i.indexrelid
		LEFT JOIN pg_stat_user_indexes s ON s.indexrelid = i.indexrelid
		LEFT JOIN pg_stat_user_tables t ON t.relid = i.indrelid
		WHERE i.indrelid = to_regclass('task') AND NOT i.indisunique AND NOT i.indisexclusion
		ORDER BY size_bytes DESC, name`)
	for _, index := range all {
		_, using, _ := strings.Cut(index.Definition, " USING ")
		if index.Reason = superseded[using]; index.Reason != "" {
			unused = append(unused, index)
		}
	}
	return unused, err
}

// DropUnused drops the indexes of the old program that no query of ours needs, one at a time and beside the running
// program, and returns them with their definitions: going back to the old program means building them again. It returns
// an error if ours are not complete.
func DropUnused(ctx context.Context, url string, logger *slog.Logger) (dropped []UnusedIndex, err error) {
	err = maintainIndexes(ctx, url, func(conn *sql.Conn, db *sqlx.DB) error {
		for _, want := range indexes {
			there, _, err := want.find(ctx, db)
			if err != nil {
				return err
			}
			if !there {
				return fmt.Errorf("the index %s is not built yet; run `flotilla-os migrate` first", want.name)
			}
		}
		unused, err := unusedIndexes(ctx, db)
		if err != nil {
			return err
		}
		if _, err := conn.ExecContext(ctx, fmt.Sprintf(`SET lock_timeout = %d`, vacuumLockTimeout.Milliseconds())); err != nil {
			return err
		}
		for _, index := range unused {
			err := untilUnlocked(ctx, logger, "drop of index "+index.Name, func() error {
				_, err := conn.ExecContext(ctx, `DROP INDEX CONCURRENTLY IF EXISTS `+pq.QuoteIdentifier(index.Name))
				return err
			})
			if err != nil {
				return fmt.Errorf("index %s: %w", index.Name, err)
			}
			logger.Info("dropped an unused index", "index", index.Name, "bytes", index.SizeBytes)
			dropped = append(dropped, index)
		}
		return nil
	})
	return dropped, err
}

// maintainIndexes runs fn while no other server builds or drops indexes. fn gets the session that holds the lock, for
// its statements, and a pool for its queries.
func maintainIndexes(ctx context.Context, url string, fn func(conn *sql.Conn, db *sqlx.DB) error) (err error) {
	db, err := openMaintenance(url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := pollLock(ctx, conn, indexLock); err != nil {
		return err
	}
	return fn(conn, sqlx.NewDb(db, "postgres"))
}
