package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

// oldInstallation returns an installation on a database of the old program, with that program's rows (data-model.md).
func oldInstallation(t *testing.T, env ...string) *installation {
	t.Helper()
	script, err := os.ReadFile(filepath.Join(root, "state", "testdata", "old_database.sql"))
	require.NoError(t, err)
	in := newInstallation(t, pgtest.New(t).URL, env...)
	in.exec(string(script))
	return in
}

// The program works on a database of the old program and leaves one on which the old program can work again.
func TestServeTheDatabaseOfTheOldProgram(t *testing.T) {
	t.Parallel()
	in := oldInstallation(t)
	in.exec(`UPDATE task SET cluster_name = 'local', description = 'nightly', command_hash = md5('nightly') WHERE run_id = 'eks-queued'`)
	s := in.serve("one")

	queued := s.awaitStopped("eks-queued")
	assert.EqualValues(t, 0, queued.code(), "a run that the old program queued is executed")
	assert.EqualValues(t, 1024, queued.Memory, "a killed run with the same description but another command is no history")
	assert.Equal(t, state.StatusRunning, s.get("eks-running").Status, "a run of an unreachable cluster stays as it is")
	lost := s.get("eks-lost-in-queue")
	assert.Equal(t, state.StatusStopped, lost.Status)
	require.NotEmpty(t, lost.ExitReason)

	again := s.awaitStopped(s.run("def-full"))
	assert.EqualValues(t, 0, again.code())
	assert.EqualValues(t, 1024, again.Memory, "a kill stored under the hash of a description is no history")

	var ofTemplate created
	status, err := s.call(http.MethodPut, "/api/v7/template/tpl-1/execute",
		object{"owner_id": "ann", "template_payload": object{}}, &ofTemplate)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	assert.EqualValues(t, 0, s.awaitStopped(ofTemplate.ID).code(), "a template's run needs no foreign key")
	definition := s.define("true")
	assert.EqualValues(t, 0, s.awaitStopped(s.run(definition)).code())

	in.awaitIndexes()
	s.stop()
	in.oldProgramGoesOn(definition)
	in.serve("one")
	assert.Equal(t, state.StatusStopped, in.serve("two").get("eks-back").Status, "the program works on the database again")
}

// oldProgramGoesOn executes a run with statements of the old program's shape: whole rows, without the columns that it
// does not know.
func (in *installation) oldProgramGoesOn(definition string) {
	in.t.Helper()
	in.exec(`INSERT INTO task (run_id, definition_id, alias, image, cluster_name, exit_code, exit_reason, status, queued_at, started_at,
			finished_at, instance_id, instance_dns_name, group_name, env, task_arn, docker_id, "user", task_type, command, command_hash,
			memory, cpu, gpu, engine, executable_id, executable_type, attempt_count, labels, tier)
		SELECT 'eks-back', definition_id, alias, image, 'sun', NULL, NULL, 'QUEUED', now(), NULL, NULL, '', '', group_name, '[]', '', '',
			'me', '', command, md5('a description'), memory, cpu, gpu, 'eks', definition_id, 'task_definition', NULL, NULL, 'Tier4'
		FROM task_def WHERE definition_id = $1`, definition)
	in.exec(`UPDATE task SET status = 'RUNNING', started_at = now(), attempt_count = 1, pod_name = 'p', namespace = 'n',
		memory_limit = 512, cpu_limit = 256, pod_events = '[]' WHERE run_id = 'eks-back'`)
	in.exec(`UPDATE task SET status = 'STOPPED', finished_at = now(), exit_code = 0 WHERE run_id = 'eks-back'`)
	in.exec(`UPDATE task_def SET memory = 2048, env = '[]' WHERE definition_id = $1`, definition)
	in.exec(`INSERT INTO worker (worker_type, engine, count_per_instance) VALUES ('retry', 'eks', 1), ('submit', 'eks', 1), ('status', 'eks', 1)`)
}

// awaitIndexes waits until all indexes are built and valid.
func (in *installation) awaitIndexes() {
	in.t.Helper()
	in.await("all indexes", func() bool {
		var learning, half int
		err := in.db.QueryRowContext(in.t.Context(), `SELECT count(*) FILTER (WHERE pg_get_indexdef(indexrelid) LIKE '%command_hash%'),
			count(*) FILTER (WHERE NOT indisvalid) FROM pg_index WHERE indrelid = 'task'::regclass`).Scan(&learning, &half)
		return err == nil && learning >= 2 && half == 0
	})
}

// The configuration that the old program shipped runs every worker: that program never read enabled_workers. Its other
// keys are accepted without a warning if they are without effect for good (config.md).
func TestTheConfigurationOfTheOldProgramIsServed(t *testing.T) {
	t.Parallel()
	in := oldInstallation(t)
	in.configure(`
enabled_workers: [retry, submit]
redis_address: localhost
redis_db: 1
eks_job_queue: jobs
eks_status_queue: status
eks_exception_extractor_url: http://extractor
eks_cluster_override: [a]
eks_gpu_cluster_override: [a]
eks_log_driver_name: awslogs
eks_log_driver_options_awslogs-group: flotilla
base_uri: http://localhost:5000
check_image_validity: false
state_manager: postgres
cluster_client: eks
logs_client: eks
queue_manager: sqs
execution_engine: eks
`)
	s := in.serve("one")

	assert.EqualValues(t, 3, s.awaitStopped(s.run(s.define("exit 3"))).code(), "a run is executed and followed")
	overdue := s.run(s.define("sleep 1000"))
	s.awaitStatus(overdue, state.StatusRunning)
	in.exec(`UPDATE task SET started_at = now() - interval '1 hour', active_deadline_seconds = 10 WHERE run_id = $1`, overdue)
	assert.EqualValues(t, state.ExitCodeDeadline, s.awaitStopped(overdue).code(), "the status worker runs")

	warned := s.output.logged(func(line object) bool { return line["key"] != nil })
	require.Len(t, warned, 1, "%v", warned)
	assert.Equal(t, "WARN", warned[0]["level"])
	assert.Equal(t, "enabled_workers", warned[0]["key"])
}

// sparkColumns selects what the old program knows of its Spark runs: no server may change any of it.
const sparkColumns = `SELECT jsonb_object_agg(run_id, jsonb_build_array(status, command, command_hash, cluster_name, memory, cpu,
	attempt_count, queued_at, started_at, finished_at, exit_code, exit_reason, pod_name, spark_extension))
	FROM task WHERE engine = 'eks-spark' AND run_id LIKE 'old-%'`

// sparkRuns returns sparkColumns as text.
func (in *installation) sparkRuns() string {
	in.t.Helper()
	var runs string
	require.NoError(in.t, in.db.QueryRowContext(in.t.Context(), sparkColumns).Scan(&runs))
	return runs
}

// Spark runs of the old program are neither executed nor stopped nor rehashed, although they are past every deadline and
// their cluster does not know them.
func TestSparkRunsOfTheOldProgramStayAsTheyAre(t *testing.T) {
	t.Parallel()
	in := oldInstallation(t, "WORKER_STATUS_INTERVAL=200ms", "LOST_AFTER=1s")
	for _, status := range []state.Status{state.StatusPending, state.StatusRunning} {
		in.exec(`INSERT INTO task (run_id, definition_id, cluster_name, status, engine, command, command_hash, memory, cpu, queued_at,
				started_at, attempt_count, pod_name, active_deadline_seconds, spark_extension, executable_id, executable_type)
			SELECT 'old-' || $1, definition_id, 'local', $1, 'eks-spark', 'spark-submit x', md5('a description'), 1024, 1000,
				now() - interval '3 days', now() - interval '3 days', 1, 'driver', 60, '{"app_uri": "x"}', definition_id,
				'task_definition'
			FROM task_def WHERE definition_id = 'def-full'`, string(status))
	}
	before := in.sparkRuns()
	s := in.serve("one")
	swept := s.run(s.define("sleep 1000"))
	s.awaitStatus(swept, state.StatusRunning)
	in.exec(`UPDATE task SET started_at = now() - interval '1 hour', active_deadline_seconds = 10 WHERE run_id = $1`, swept)
	s.awaitStopped(swept) // a sweep has ended a run

	require.Never(t, func() bool { return in.sparkRuns() != before }, 20*time.Second, 200*time.Millisecond)
	in.awaitIndexes() // the migration has ended
	assert.JSONEq(t, before, in.sparkRuns())
}

func TestASubmittedSparkRunWaitsWithAReasonAndCanBeStopped(t *testing.T) {
	t.Parallel()
	in := newInstallation(t, statetest.NewURL(t))
	s := in.serve("one")
	ran := in.marker("ran")
	definition := s.define("echo ran >> " + ran)
	spark := s.run(definition, object{"engine": state.EKSSparkEngine, "spark_extension": object{
		"spark_submit_job_driver": object{"entry_point": "main.py"},
	}})

	assert.Contains(t, strings.ToLower(s.awaitReason(spark)), "spark")
	s.awaitStopped(s.run(definition))
	require.Never(t, func() bool { return s.get(spark).Status != state.StatusQueued }, 3*time.Second, 200*time.Millisecond)
	s.terminate(spark)
	stopped := s.get(spark)
	assert.Equal(t, state.StatusStopped, stopped.Status)
	assert.Contains(t, stopped.ExitReason, state.ReasonTerminated)
	assert.Len(t, in.lines(ran), 1, "only the other run is executed")
}
