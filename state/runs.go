package state

import (
	"context"
	"crypto/md5"
	"database/sql"
	"encoding/hex"
	"errors"

	"github.com/jmoiron/sqlx"
)

// insertRunColumns and insertRunValues are the columns of a new run and their values, in the same order. They leave out
// what an engine finds later.
const (
	insertRunColumns = `run_id, definition_id, alias, image, cluster_name, status, queued_at,
		group_name, "user", task_type, env, command, command_hash, memory, cpu, gpu, ephemeral_storage,
		node_lifecycle, engine, spark_extension, executable_id, executable_type,
		execution_request_custom, active_deadline_seconds, description, idempotence_key, arch, labels,
		requires_docker, service_account, tier, requested_memory, requested_cpu`
	insertRunValues = `:run_id, :definition_id, :alias, :image, :cluster_name, 'QUEUED', COALESCE(CAST(:queued_at AS timestamptz), clock_timestamp()),
		:group_name, NULLIF(:user, ''), :task_type, :env, NULLIF(:command, ''), :command_hash, :memory, :cpu, :gpu, :ephemeral_storage,
		:node_lifecycle, :engine, :spark_extension, :executable_id, COALESCE(NULLIF(:executable_type, ''), 'task_definition'),
		:execution_request_custom, :active_deadline_seconds, :description, :idempotence_key, :arch, :labels,
		:requires_docker, :service_account, NULLIF(:tier, ''), :requested_memory, :requested_cpu`

	// The definition's row is share-locked in the transaction of the INSERT: DeleteDefinition takes it FOR UPDATE, so a
	// run is either seen by the deletion or finds no definition (data-model.md, Migrations). The lock keeps the row's
	// version.
	insertDefinitionRunSQL = `INSERT INTO task (` + insertRunColumns + `)
		SELECT ` + insertRunValues + `
		FROM (
			SELECT FROM task_def
			WHERE definition_id = :definition_id AND CAST(:definition_version AS text) IN ('', CAST(xmin AS text))
			FOR KEY SHARE
		) AS definition
		RETURNING queued_at`

	// Templates are never deleted.
	insertTemplateRunSQL = `INSERT INTO task (` + insertRunColumns + `)
		VALUES (` + insertRunValues + `)
		RETURNING queued_at`
)

// runsByKeySQL finds the run that an idempotence key ($1) stands for: the newest one of the last 7 days that has not
// failed (rest-api.md, Creating a run).
const runsByKeySQL = `SELECT ` + runColumns + ` FROM task
	WHERE idempotence_key = $1
	  AND queued_at > now() - INTERVAL '7 days'
	  AND (status <> 'STOPPED' OR exit_code = 0)
	ORDER BY queued_at DESC, run_id
	LIMIT 1`

// lockKeySQL serializes requests with one key ($1). The second number keeps this use of advisory locks apart from
// others.
const lockKeySQL = `SELECT pg_advisory_xact_lock(hashtextextended($1, 20180503))`

// ErrDefinitionChanged reports that a run was made from an outdated version of its definition.
var ErrDefinitionChanged = errors.New("state: the definition was changed")

// CreateRun stores a run as QUEUED, which also queues it: there is no second store. It returns the run as stored and
// true, or, if an earlier run stands for the same idempotence key, that run and false. It returns ErrDefinitionChanged
// if DefinitionVersion is set and the definition has another version or is gone, and MissingResource if it is not set
// and the definition is gone.
func (m *Manager) CreateRun(ctx context.Context, r Run) (stored Run, created bool, err error) {
	m.checkCommandHash(ctx, r)
	r.Status = StatusQueued
	text := insertDefinitionRunSQL
	if r.ExecutableType == ExecutableTypeTemplate {
		text = insertTemplateRunSQL
	}
	insert, err := m.named(ctx, text) //nolint:sqlclosecheck // it is kept
	if err != nil {
		return Run{}, false, err
	}
	if r.IdempotenceKey == nil || *r.IdempotenceKey == "" {
		stored, err = insertRun(ctx, insert, r) // The statement is its own transaction, in one round trip.
		return stored, err == nil, err
	}
	err = m.transact(ctx, func(tx *sqlx.Tx) error {
		if _, err := tx.ExecContext(ctx, lockKeySQL, *r.IdempotenceKey); err != nil {
			return err
		}
		// This is a statement of its own because its snapshot must be younger than the lock.
		var err error
		stored, err = m.readRun(ctx, func(row any) error { return tx.GetContext(ctx, row, runsByKeySQL, *r.IdempotenceKey) })
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		stored, err = insertRun(ctx, tx.NamedStmtContext(ctx, insert), r) //nolint:sqlclosecheck // it ends with tx
		created = err == nil
		return err
	})
	if err != nil {
		return Run{}, false, err
	}
	return stored, created, nil
}

// insertRun runs an INSERT of r and returns r with its queued_at.
func insertRun(ctx context.Context, insert *sqlx.NamedStmt, r Run) (Run, error) {
	err := insert.GetContext(ctx, &r.QueuedAt, r)
	switch {
	case errors.Is(err, sql.ErrNoRows) && r.DefinitionVersion != "":
		return Run{}, ErrDefinitionChanged
	case errors.Is(err, sql.ErrNoRows):
		return Run{}, Missingf("there is no definition %q", r.DefinitionID)
	case err != nil:
		return Run{}, interpretError(err)
	}
	return r, nil
}

// checkCommandHash logs a run whose hash is not that of its command, because ARA would learn from the wrong runs. It
// changes and fails nothing (ara.md, section 1).
func (m *Manager) checkCommandHash(ctx context.Context, r Run) {
	var expected string
	if r.Command != nil && *r.Command != "" {
		sum := md5.Sum([]byte(*r.Command))
		expected = hex.EncodeToString(sum[:])
	}
	if actual := deref(r.CommandHash); expected != actual {
		m.logger.WarnContext(ctx, "command_hash mismatch",
			"run_id", r.RunID, "expected_hash", expected, "actual_hash", actual)
	}
}

// runColumns are the columns of table task that make a Run; the one list of them. They are qualified because they also
// stand in UPDATE task … FROM … RETURNING.
//
// A NULL becomes a value only if the REST resource always has the field, or omits it when empty.
const runColumns = `
	task.run_id,
	COALESCE(task.definition_id, '') AS definition_id,
	COALESCE(task.alias, '') AS alias,
	COALESCE(task.image, '') AS image,
	COALESCE(task.cluster_name, '') AS cluster_name,
	task.exit_code, task.exit_reason,
	COALESCE(task.status, '') AS status,
	task.status_reason,
	task.queued_at, task.started_at, task.finished_at,
	COALESCE(task.instance_id, '') AS instance_id,
	COALESCE(task.instance_dns_name, '') AS instance_dns_name,
	COALESCE(task.group_name, '') AS group_name,
	COALESCE(task."user", '') AS "user",
	COALESCE(task.task_type, '') AS task_type,
	task.env, task.command, task.command_hash,
	task.memory, task.memory_limit, task.cpu, task.cpu_limit, task.gpu, task.ephemeral_storage,
	task.engine, task.node_lifecycle,
	task.container_name, task.pod_name, task.namespace,
	task.max_memory_used, task.max_cpu_used,
	task.pod_events, task.cloudtrail_notifications,
	task.executable_id,
	COALESCE(task.executable_type, 'task_definition') AS executable_type,
	task.execution_request_custom,
	task.attempt_count, task.spawned_runs, task.run_exceptions, task.active_deadline_seconds,
	task.spark_extension, task.metrics_uri,
	-- A run without a description is described by its alias.
	COALESCE(task.description, task.alias, '') AS description,
	task.idempotence_key, task.arch, task.labels,
	COALESCE(task.requires_docker, false) AS requires_docker,
	task.service_account,
	COALESCE(task.tier, 'Tier4') AS tier,
	task.requested_memory, task.requested_cpu,
	task.claimed_by, task.claimed_until, task.next_attempt_at`

// runRow is a row of runColumns. Its jsonb columns take the place of the fields of Run with the same name, because they
// may have any shape.
type runRow struct {
	Run
	RawEnv           []byte `db:"env"`
	RawLabels        []byte `db:"labels"`
	RawPodEvents     []byte `db:"pod_events"`
	RawCloudTrail    []byte `db:"cloudtrail_notifications"`
	RawRequestCustom []byte `db:"execution_request_custom"`
	RawSpawnedRuns   []byte `db:"spawned_runs"`
	RawRunExceptions []byte `db:"run_exceptions"`
	RawSpark         []byte `db:"spark_extension"`
}

// readRuns returns the runs that query reads into a slice of rows.
func (m *Manager) readRuns(ctx context.Context, query func(rows any) error) ([]Run, error) {
	var rows []runRow
	if err := query(&rows); err != nil {
		return nil, interpretError(err)
	}
	runs := make([]Run, len(rows))
	for i := range rows {
		runs[i] = m.runOf(ctx, &rows[i])
	}
	return runs, nil
}

// readRun returns the run that query reads into a row. It returns sql.ErrNoRows as it is.
func (m *Manager) readRun(ctx context.Context, query func(row any) error) (Run, error) {
	var row runRow
	if err := query(&row); err != nil {
		return Run{}, interpretError(err)
	}
	return m.runOf(ctx, &row), nil
}

// runOf returns the run of a row.
func (m *Manager) runOf(ctx context.Context, row *runRow) Run {
	r := &row.Run
	m.readColumns(ctx, "run_id", r.RunID,
		jsonColumn{"env", row.RawEnv, &r.Env},
		jsonColumn{"labels", row.RawLabels, &r.Labels},
		jsonColumn{"pod_events", row.RawPodEvents, &r.PodEvents},
		jsonColumn{"cloudtrail_notifications", row.RawCloudTrail, &r.CloudTrail},
		jsonColumn{"execution_request_custom", row.RawRequestCustom, &r.RequestCustom},
		jsonColumn{"spawned_runs", row.RawSpawnedRuns, &r.SpawnedRuns},
		jsonColumn{"run_exceptions", row.RawRunExceptions, &r.RunExceptions},
		jsonColumn{"spark_extension", row.RawSpark, &r.SparkExtension})
	if r.SparkExtension == nil {
		r.SparkExtension = &SparkExtension{}
	}
	return *r
}

// GetRun returns a run, or MissingResource if there is none.
func (m *Manager) GetRun(ctx context.Context, runID string) (Run, error) {
	r, err := m.readRun(ctx, func(row any) error {
		return m.db.GetContext(ctx, row, `SELECT `+runColumns+` FROM task WHERE run_id = $1`, runID)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return Run{}, Missingf("there is no run %q", runID)
	}
	return r, err
}

// listChildRunsSQL uses the index on env. $1 is an environment.
const listChildRunsSQL = `SELECT run_id FROM task
	WHERE env @> CAST($1 AS jsonb)
	ORDER BY queued_at, run_id`

// ListChildRuns returns the ids of the runs that name parentID as their parent in their environment, oldest first.
func (m *Manager) ListChildRuns(ctx context.Context, parentID string) ([]string, error) {
	var ids []string
	parent := EnvList{{Name: ParentRunEnv, Value: parentID}}
	err := m.db.SelectContext(ctx, &ids, listChildRunsSQL, parent)
	return ids, interpretError(err)
}
