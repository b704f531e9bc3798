package state

import "context"

// runColumns are the columns of table task that make a Run, in the order of
// its fields; the one list of them. They are qualified, so that they stand in
// SELECT … FROM task as well as in UPDATE task … FROM … RETURNING. sqlx scans
// them by their names.
//
// A NULL becomes a value only where the field cannot hold NULL because the
// REST resource always has it, or omits it when empty.
const runColumns = `
	task.run_id,
	COALESCE(task.definition_id, '') AS definition_id,
	COALESCE(task.alias, '') AS alias,
	COALESCE(task.image, '') AS image,
	COALESCE(task.cluster_name, '') AS cluster_name,
	task.exit_code,
	task.exit_reason,
	COALESCE(task.status, '') AS status,
	task.status_reason,
	task.queued_at,
	task.started_at,
	task.finished_at,
	COALESCE(task.instance_id, '') AS instance_id,
	COALESCE(task.instance_dns_name, '') AS instance_dns_name,
	COALESCE(task.group_name, '') AS group_name,
	COALESCE(task."user", '') AS "user",
	COALESCE(task.task_type, '') AS task_type,
	task.env,
	task.command,
	task.command_hash,
	task.memory,
	task.memory_limit,
	task.cpu,
	task.cpu_limit,
	task.gpu,
	task.engine,
	task.node_lifecycle,
	task.ephemeral_storage,
	task.container_name,
	task.pod_name,
	task.namespace,
	task.max_memory_used,
	task.max_cpu_used,
	task.pod_events,
	task.cloudtrail_notifications,
	task.executable_id,
	COALESCE(task.executable_type, 'task_definition') AS executable_type,
	task.execution_request_custom,
	task.attempt_count,
	task.spawned_runs,
	task.run_exceptions,
	task.active_deadline_seconds,
	task.spark_extension,
	task.metrics_uri,
	-- A run that was given no description is described by its alias.
	COALESCE(task.description, task.alias, '') AS description,
	task.idempotence_key,
	task.arch,
	task.labels,
	COALESCE(task.requires_docker, false) AS requires_docker,
	task.service_account,
	COALESCE(task.tier, 'Tier4') AS tier,
	task.requested_memory,
	task.requested_cpu,
	task.claimed_by,
	task.claimed_until,
	task.next_attempt_at`

// runRow is a row of runColumns. Its jsonb columns take the place of the fields
// of Run with the same name, because they may have any shape.
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

// readRun returns the run that query reads into a row. sql.ErrNoRows comes back
// as it is.
func (m *Manager) readRun(ctx context.Context, query func(row any) error) (Run, error) {
	var row runRow
	if err := query(&row); err != nil {
		return Run{}, interpretError(err)
	}
	return m.runOf(ctx, &row), nil
}

// maxOddLogged bounds the memory of what was logged.
const maxOddLogged = 10_000

// runOf reads the jsonb columns of a row, and logs once if one is odd.
func (m *Manager) runOf(ctx context.Context, row *runRow) Run {
	r := &row.Run
	for _, c := range []struct {
		column string
		dst    any
		raw    []byte
	}{
		{"env", &r.Env, row.RawEnv},
		{"labels", &r.Labels, row.RawLabels},
		{"pod_events", &r.PodEvents, row.RawPodEvents},
		{"cloudtrail_notifications", &r.CloudTrail, row.RawCloudTrail},
		{"execution_request_custom", &r.RequestCustom, row.RawRequestCustom},
		{"spawned_runs", &r.SpawnedRuns, row.RawSpawnedRuns},
		{"run_exceptions", &r.RunExceptions, row.RawRunExceptions},
		{"spark_extension", &r.SparkExtension, row.RawSpark},
	} {
		if !readJSON(c.dst, c.raw) {
			continue
		}
		m.oddMu.Lock()
		place := r.RunID + " " + c.column
		known := m.oddLogged[place] || len(m.oddLogged) >= maxOddLogged
		if !known {
			m.oddLogged[place] = true
		}
		m.oddMu.Unlock()
		if !known {
			m.logger.WarnContext(ctx, "a run's JSON has an unexpected shape and was read as far as possible",
				"run_id", r.RunID, "column", c.column)
		}
	}
	if r.SparkExtension == nil {
		r.SparkExtension = &SparkExtension{}
	}
	return *r
}
