package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/stitchfix/flotilla-os/state/database"
)

// TakeoverReport is what this program would find in a database of the old program (data-model.md, Taking over a live
// database).
type TakeoverReport struct {
	Schema database.SchemaReport `json:"schema"`
	// TakenOver reports whether this program has served the database before.
	TakenOver bool `json:"taken_over"`

	// ARAOff are definitions whose adaptive_resource_allocation is false: ARA does not size their runs.
	ARAOff Findings `json:"ara_off"`
	// RequiresDocker are definitions whose runs need a docker daemon.
	RequiresDocker Findings `json:"requires_docker"`
	// EmptyTags are definitions that hold the tag '', which is not shown.
	EmptyTags Findings `json:"empty_tags"`

	// ActiveSpark are runs of engine eks-spark that are not STOPPED. They are left as they are.
	ActiveSpark Findings `json:"active_spark"`
	SparkRuns   int64    `json:"spark_runs"`
	// LostInQueue are queued runs older than adopt_queued_max_age, which the first start stops.
	LostInQueue Findings `json:"lost_in_queue"`
	// ActiveWithoutHash and ActiveWrongHash are active container runs whose command_hash is not the MD5 of their
	// command; the first start corrects it.
	ActiveWithoutHash Findings `json:"active_without_hash"`
	ActiveWrongHash   Findings `json:"active_wrong_hash"`

	// OddJSON lists the jsonb columns that hold values of another shape than ours. They are read leniently.
	OddJSON []OddColumn `json:"odd_json"`

	Clusters []TakeoverCluster `json:"clusters"`
	// DuplicateWorkers are worker types ("type/engine") with more than one row.
	DuplicateWorkers Findings `json:"duplicate_workers"`
}

// Findings counts rows and names up to five of them.
type Findings struct {
	Count int64          `db:"count" json:"count"`
	IDs   pq.StringArray `db:"ids" json:"ids"`
}

// OddColumn is a jsonb column that holds odd values.
type OddColumn struct {
	Table  string `json:"table"`
	Column string `json:"column"`
	Findings
}

// TakeoverCluster is a name in cluster_state.
type TakeoverCluster struct {
	Name string `db:"name" json:"name"`
	// Rows is how many rows have the name; the one with the lowest id counts.
	Rows        int64         `db:"rows" json:"rows"`
	Status      ClusterStatus `db:"status" json:"status"`
	StatusSince *time.Time    `db:"status_since" json:"status_since,omitempty"`
	UpdatedAt   *time.Time    `db:"updated_at" json:"updated_at,omitempty"`
	// Stale reports that the row did not change, and the cluster got no run, for 30 days.
	Stale bool `db:"stale" json:"stale"`
}

// jsonColumns are the jsonb columns that this program reads, each with the condition of an odd value among those that
// are neither SQL NULL nor JSON null. Paths are lax: a value that is no array counts as its own only item.
var jsonColumns = []struct{ table, id, column, odd string }{
	{"task", "run_id", "env", oddEnv}, {"task_def", "definition_id", "env", oddEnv}, {"template", "template_id", "env", oddEnv},
	{"task", "run_id", "labels", `jsonb_typeof(labels) <> 'object' OR labels @? '$.* ? (@.type() != "string")'`},
	{"task", "run_id", "pod_events", `jsonb_typeof(pod_events) <> 'array' OR pod_events @? '$[*] ? (@.type() != "object"
		|| exists(@.timestamp ? (@.type() != "null" && !(@ like_regex "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(Z|[+-][0-9:]+)$")))
		|| exists(@.event_type ? (@.type() != "string" && @.type() != "null"))
		|| exists(@.reason ? (@.type() != "string" && @.type() != "null"))
		|| exists(@.source_object ? (@.type() != "string" && @.type() != "null"))
		|| exists(@.message ? (@.type() != "string" && @.type() != "null")))'`},
	{"task", "run_id", "cloudtrail_notifications", `jsonb_typeof(cloudtrail_notifications) <> 'object'
		OR cloudtrail_notifications @? 'strict $.Records ? (@.type() != "array" && @.type() != "null")'
		OR cloudtrail_notifications @? '$.Records[*] ? (@.type() != "object" && @.type() != "null")'`},
	{"task", "run_id", "spark_extension", `jsonb_typeof(spark_extension) <> 'object'`},
	{"task", "run_id", "execution_request_custom", `jsonb_typeof(execution_request_custom) <> 'object'`},
	{"task", "run_id", "spawned_runs", `jsonb_typeof(spawned_runs) <> 'array' OR spawned_runs @? '$[*] ? (@.type() != "object")'`},
	{"task", "run_id", "run_exceptions", `jsonb_typeof(run_exceptions) <> 'array' OR run_exceptions @? '$[*] ? (@.type() != "string")'`},
	{"template", "template_id", "schema", `jsonb_typeof(schema) <> 'object'`},
	{"template", "template_id", "defaults", `jsonb_typeof(defaults) <> 'object'`},
}

const oddEnv = `jsonb_typeof(env) <> 'array' OR env @? '$[*] ? (@.type() != "object"
	|| exists(@.name ? (@.type() != "string")) || exists(@.value ? (@.type() != "string" && @.type() != "null")))'`

// staleCluster is how long a cluster may be unused and unchanged before it counts as stale.
const staleCluster = 30 * 24 * time.Hour

// InspectTakeover reads the database at url, migrated or not, and reports what differs from what this program expects.
// It changes nothing. queuedMaxAge is adopt_queued_max_age. It reads the table of runs from end to end.
func InspectTakeover(ctx context.Context, url string, queuedMaxAge time.Duration) (r TakeoverReport, err error) {
	db, err := database.Open(url, database.PoolConfig{MaxOpen: 1})
	if err != nil {
		return r, fmt.Errorf("database_url: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTxx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return r, interpretError(err)
	}
	defer func() { _ = tx.Rollback() }()
	if r.Schema, err = database.Inspect(ctx, tx); err != nil {
		return r, interpretError(err)
	}
	columns := map[string]bool{}
	var names []string
	err = tx.SelectContext(ctx, &names, `SELECT relname || '.' || attname FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid
		WHERE relnamespace = current_schema()::regnamespace AND attnum > 0 AND NOT attisdropped`)
	if err != nil {
		return r, interpretError(err)
	}
	for _, name := range names {
		columns[name] = true
	}
	if columns["flotilla_start.first_at"] {
		if err := tx.GetContext(ctx, &r.TakenOver, `SELECT EXISTS (SELECT FROM flotilla_start)`); err != nil {
			return r, interpretError(err)
		}
	}

	// find counts the rows of a table, if it has the columns, by fixed texts.
	find := func(into *Findings, table, id, where string, needs []string, args ...any) {
		if err != nil {
			return
		}
		for _, column := range append(needs, id) {
			if !columns[table+"."+column] {
				return
			}
		}
		err = tx.GetContext(ctx, into, `SELECT count(*) AS count, COALESCE((array_agg(`+id+` ORDER BY `+id+`))[1:5], '{}') AS ids
			FROM `+table+` WHERE `+where, args...)
	}
	const active, container = `status IN ('QUEUED', 'PENDING', 'RUNNING', 'NEEDS_RETRY')`, `engine = 'eks' AND COALESCE(command, '') <> ''`
	var spark Findings
	find(&r.ARAOff, "task_def", "definition_id", `NOT adaptive_resource_allocation`, []string{"adaptive_resource_allocation"})
	find(&r.RequiresDocker, "task_def", "definition_id", `requires_docker`, []string{"requires_docker"})
	find(&r.EmptyTags, "task_def_tags", "task_def_id", `tag_id = ''`, []string{"tag_id"})
	find(&r.ActiveSpark, "task", "run_id", `engine = 'eks-spark' AND `+active, []string{"engine", "status"})
	find(&spark, "task", "run_id", `engine = 'eks-spark'`, []string{"engine"})
	find(&r.LostInQueue, "task", "run_id", `status = 'QUEUED' AND engine <> 'eks-spark'
		AND (queued_at IS NULL OR queued_at < now() - make_interval(secs => $1))`, []string{"status", "queued_at", "engine"}, queuedMaxAge.Seconds())
	find(&r.ActiveWithoutHash, "task", "run_id", active+` AND `+container+` AND COALESCE(command_hash, '') = ''`,
		[]string{"status", "engine", "command", "command_hash"})
	find(&r.ActiveWrongHash, "task", "run_id", active+` AND `+container+` AND command_hash <> '' AND command_hash <> md5(command)`,
		[]string{"status", "engine", "command", "command_hash"})
	for _, c := range jsonColumns {
		odd := OddColumn{Table: c.table, Column: c.column}
		find(&odd.Findings, c.table, c.id, c.column+` <> 'null' AND (`+c.odd+`)`, []string{c.column})
		if odd.Count > 0 {
			r.OddJSON = append(r.OddJSON, odd)
		}
	}
	if err != nil {
		return r, interpretError(err)
	}
	r.SparkRuns = spark.Count
	if columns["worker.engine"] {
		err = tx.GetContext(ctx, &r.DuplicateWorkers, `SELECT count(*) AS count, COALESCE((array_agg(kind ORDER BY kind))[1:5], '{}') AS ids
			FROM (SELECT worker_type || '/' || engine AS kind FROM worker GROUP BY 1 HAVING count(*) > 1) AS twice`)
	}
	if err == nil && columns["cluster_state.updated_at"] && columns["cluster_state.status_since"] && columns["task.cluster_name"] {
		err = tx.SelectContext(ctx, &r.Clusters, inspectClustersSQL, staleCluster.Seconds())
	}
	return r, interpretError(err)
}

const inspectClustersSQL = `
SELECT DISTINCT ON (name) name, count(*) OVER (PARTITION BY name) AS rows, status, status_since, updated_at,
	COALESCE(GREATEST(status_since, updated_at) < now() - make_interval(secs => $1), true)
	AND NOT EXISTS (SELECT FROM task WHERE task.cluster_name = cluster_state.name
		AND task.queued_at >= now() - make_interval(secs => $1)) AS stale
FROM cluster_state
ORDER BY name, id`

// reasonNotAdopted is the exit reason of runs that the old program never submitted.
const reasonNotAdopted = "The run waited too long in the queue before this server took over; submit it again."

const (
	firstStartSQL = `INSERT INTO flotilla_start (first_at) VALUES (now()) ON CONFLICT DO NOTHING`

	stopStaleSQL = `UPDATE task SET
		status = 'STOPPED', exit_code = $1, exit_reason = $2, finished_at = now(), status_reason = NULL
	WHERE status = ANY($3) AND engine <> 'eks-spark' AND queued_at < now() - make_interval(secs => $4)`

	// The old program made hashes from descriptions. STOPPED runs keep theirs (docs/decisions). A run that this program
	// sizes must neither learn from other commands nor teach them. Spark runs are left, because this program does not
	// execute them yet.
	rehashActiveSQL = `UPDATE task SET command_hash = md5(NULLIF(command, ''))
	WHERE status = ANY($1) AND engine = 'eks' AND command_hash IS DISTINCT FROM md5(NULLIF(command, ''))`
)

// activeStatuses are those of runs that are not over.
var activeStatuses = slices.DeleteFunc(slices.Clone(Statuses), Status.Final)

// AdoptQueued takes over the queue of the old program, once in the life of a database. At our first start, it stops
// QUEUED runs older than maxAge, because that program had lost them (data-model.md, "Taking over a live database"),
// hashes the commands of the runs that go on, and returns how many it stopped. At every later start it does nothing.
func (m *Manager) AdoptQueued(ctx context.Context, maxAge time.Duration) (stopped int, err error) {
	err = m.transact(ctx, func(tx *sqlx.Tx) error {
		first, err := rowsHit(tx.ExecContext(ctx, firstStartSQL))
		if err != nil || first == 0 {
			return err
		}
		stopped, err = rowsHit(tx.ExecContext(ctx, stopStaleSQL, ExitCodeNeverStarted, reasonNotAdopted,
			pq.Array(guard(StatusStopped, StatusQueued)), maxAge.Seconds()))
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, rehashActiveSQL, pq.Array(activeStatuses))
		return err
	})
	return stopped, err
}
