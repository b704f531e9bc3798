package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state"
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
func TestADatabaseOfTheOldProgramIsServed(t *testing.T) {
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

// oldProgramGoesOn executes a run with statements of the old program's shape: whole rows, without the columns that it does
// not know.
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
