// Package seed fills a database with a history of runs, for tests and benchmarks of queries on a large table. The
// program does not import it.
package seed

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Properties of the history that tests and benchmarks use.
const (
	// BigDefinitionID owns a quarter of all runs.
	BigDefinitionID = "analytics-00000000-0000-4000-8000-000000000000"
	// BigAlias is its alias.
	BigAlias = "analytics-0"
	// BigCommand is the command of every tenth of its runs.
	BigCommand = "python -m analytics.job0 --part 0"
	// Definitions is how many definitions share the runs.
	Definitions = 201
	// Days is the age of the oldest run.
	Days = 90
	// ParentRunID is the parent of one run in 10,000.
	ParentRunID = "eks-00000000-0000-4000-8000-0000parent00"
)

// Runs adds n runs, n/4 of them of the definition BigDefinitionID: queued over the last Days days before now, the
// newest ones still under way, 2 of 100 killed for memory. Equal n and now give equal rows. It is fastest before the
// indexes are built; run Analyze after that.
func Runs(ctx context.Context, db *sql.DB, n int, now time.Time) error {
	if _, err := db.ExecContext(ctx, insertDefinitionsSQL, Definitions); err != nil {
		return fmt.Errorf("seed definitions: %w", err)
	}
	if _, err := db.ExecContext(ctx, insertRunsSQL, n, now, Definitions, Days, ParentRunID); err != nil {
		return fmt.Errorf("seed runs: %w", err)
	}
	return nil
}

// Analyze gives the planner the statistics of a table in use.
func Analyze(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, `VACUUM (ANALYZE) task`)
	return err
}

// Definition number 0 is the big one.
const insertDefinitionsSQL = `
INSERT INTO task_def (definition_id, alias, image, group_name, memory, cpu, command, env, task_type, container_name)
SELECT team || '-' || id, team || '-' || d, 'registry.example.com/' || team || ':1.' || d, team,
	512 + d % 8 * 512, 256 + d % 4 * 256, 'python -m ' || team || '.job' || d,
	'[{"name": "STAGE", "value": "prod"}]', 'task', team || '-' || id
FROM (
	SELECT d, '00000000-0000-4000-8000-' || lpad(to_hex(d), 12, '0') AS id,
		(ARRAY['analytics', 'batch', 'forecast', 'ingest', 'reports', 'sync', 'training'])[1 + d % 7] AS team
	FROM generate_series(0, CAST($1 AS int) - 1) AS d
) AS definitions
ON CONFLICT (definition_id) DO NOTHING`

// The rows are computed in steps: h is a hash of the row's number, from which what looks random is taken; age is 1 for
// the oldest run and near 0 for the newest. The newest 40 runs of a history of some length have not ended.
const insertRunsSQL = `
INSERT INTO task (
	run_id, definition_id, alias, image, cluster_name, exit_code, exit_reason, status, queued_at, started_at,
	finished_at, instance_id, instance_dns_name, group_name, env, "user", task_type, command, command_hash, memory,
	memory_limit, cpu, cpu_limit, gpu, engine, node_lifecycle, container_name, pod_name, namespace, max_memory_used,
	max_cpu_used, pod_events, executable_id, executable_type, attempt_count, active_deadline_seconds, description,
	arch, labels, requires_docker, tier
)
SELECT
	run_id, definition_id, def.alias, def.image, 'cluster-' || 1 + h % 3,
	CASE WHEN status = 'STOPPED' THEN code END,
	CASE WHEN status = 'STOPPED' AND code = 137 THEN 'OOMKilled' WHEN status = 'STOPPED' AND code = 1 THEN 'Error' END,
	status, queued_at,
	CASE WHEN status IN ('RUNNING', 'STOPPED') THEN queued_at + make_interval(secs => 5 + h % 60) END,
	CASE WHEN status = 'STOPPED' THEN queued_at + make_interval(secs => 65 + h % 3600) END,
	'i-' || h % 500, 'ip-10-0-' || h % 250 || '.example.internal', def.group_name,
	jsonb_build_array(
		jsonb_build_object('name', 'FLOTILLA_SERVER_MODE', 'value', 'prod'),
		jsonb_build_object('name', 'FLOTILLA_RUN_ID', 'value', run_id),
		jsonb_build_object('name', 'AWS_ROLE_SESSION_NAME', 'value', run_id),
		jsonb_build_object('name', 'FLOTILLA_RUN_OWNER_ID', 'value', 'user' || h % 100)
	) || CASE WHEN i % 10000 = 17
		THEN jsonb_build_array(jsonb_build_object('name', 'PARENT_FLOTILLA_RUN_ID', 'value', CAST($5 AS text)))
		ELSE '[]' END,
	'user' || h % 100, 'task', final.command, md5(final.command),
	def.memory * (1 + h % 2), def.memory * (1 + h % 2), def.cpu, def.cpu, 0, 'eks', 'spot', run_id, 'pod-' || run_id,
	'flotilla', def.memory / 2 + h % 200, def.cpu / 2, '[]', definition_id, 'task_definition', 1, 172800, def.alias,
	'amd64', '{"team": "data"}', false, 'Tier' || 1 + h % 4
FROM (
	SELECT i, h, age, definition_id, 'eks-' || substr(md5('run' || i), 1, 4) || '-' || substr(md5('run' || i), 5, 4)
			|| '-4' || substr(md5('run' || i), 9, 3) || '-8' || substr(md5('run' || i), 12, 3)
			|| '-' || substr(md5('run' || i), 15, 12) AS run_id,
		CASE h % 100 WHEN 0 THEN 137 WHEN 1 THEN 137 WHEN 2 THEN 1 WHEN 3 THEN 1 WHEN 4 THEN 2 ELSE 0 END AS code,
		CASE WHEN i <= $1 - 40 THEN 'STOPPED' WHEN i % 4 = 0 THEN 'QUEUED' WHEN i % 4 = 1 THEN 'PENDING' ELSE 'RUNNING' END
			AS status,
		CAST($2 AS timestamptz) - age * make_interval(days => $4) AS queued_at
	FROM (
		SELECT i, abs(hashint4(i)) AS h, CAST($1 - i AS float) / $1 AS age,
			CASE WHEN i % 4 = 0 THEN 0 ELSE 1 + abs(hashint4(i + 7)) % ($3 - 1) END AS d
		FROM generate_series(1, CAST($1 AS int)) AS i
	) AS numbered
	JOIN LATERAL (
		SELECT (ARRAY['analytics', 'batch', 'forecast', 'ingest', 'reports', 'sync', 'training'])[1 + d % 7]
			|| '-00000000-0000-4000-8000-' || lpad(to_hex(d), 12, '0') AS definition_id
	) AS owner ON true
) AS runs
JOIN task_def AS def USING (definition_id)
CROSS JOIN LATERAL (SELECT def.command || ' --part ' || h / 100 % 10 AS command) AS final
-- A history grows in time.
ORDER BY i`
