package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state"
)

// The program is pointed at a database of the program before it, works, and
// leaves a database in which the old one could go on (data-model.md).
func TestADatabaseOfTheOldProgramIsServed(t *testing.T) {
	t.Parallel()
	old := pgtest.New(t)
	script, err := os.ReadFile(filepath.Join(root, "state", "testdata", "old_database.sql"))
	require.NoError(t, err)
	_, err = old.Open(t).ExecContext(t.Context(), string(script))
	require.NoError(t, err)
	in := newInstallation(t, old.URL)
	in.exec(`UPDATE task SET cluster_name = 'local', description = 'nightly', command_hash = md5('nightly') WHERE run_id = 'eks-queued'`)
	s := in.start("one")

	queued := in.finished("eks-queued")
	assert.EqualValues(t, 0, queued.code, "a run that the old program queued is executed")
	assert.EqualValues(t, 1024, queued.memory, "a run that shares its description with one that was killed inherits nothing")
	assert.Equal(t, state.StatusRunning, s.get("eks-running").Status, "a run of a cluster that is not reached is not touched")
	lost := s.get("eks-lost-in-queue")
	assert.Equal(t, state.StatusStopped, lost.Status)
	require.NotNil(t, lost.ExitReason)

	again := in.finished(s.run("def-full", nil))
	assert.EqualValues(t, 0, again.code)
	assert.EqualValues(t, 1024, again.memory, "a kill known by the hash of a description teaches nothing")

	var ofTemplate struct {
		ID string `json:"run_id"`
	}
	status, err := call(t.Context(), http.MethodPut, s.url+"/api/v7/template/tpl-1/execute",
		object{"owner_id": "ann", "template_payload": object{}}, &ofTemplate)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	assert.EqualValues(t, 0, in.finished(ofTemplate.ID).code, "templates' runs need no foreign key")
	definition := s.define("true")
	assert.EqualValues(t, 0, in.finished(s.run(definition, nil)).code)

	in.indexesBuilt()
	s.stop()
	in.oldProgramGoesOn(definition)
	in.start("one")
	assert.Equal(t, state.StatusStopped, in.start("two").get("eks-back").Status, "and here again")
}

// oldProgramGoesOn makes a run as the old program does, by statements of its
// shape: whole rows, without the columns that it does not know.
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

// indexesBuilt waits until no index is being built, or left behind half built.
func (in *installation) indexesBuilt() {
	in.t.Helper()
	require.Eventually(in.t, func() bool {
		var learning, half int
		err := in.db.QueryRowContext(in.t.Context(), `SELECT count(*) FILTER (WHERE pg_get_indexdef(indexrelid) LIKE '%command_hash%'),
			count(*) FILTER (WHERE NOT indisvalid) FROM pg_index WHERE indrelid = 'task'::regclass`).Scan(&learning, &half)
		return err == nil && learning >= 2 && half == 0
	}, recovery, 50*time.Millisecond)
}

// get answers a run as the API shows it.
func (s *server) get(id string) state.Run {
	s.in.t.Helper()
	var run state.Run
	s.mustCall(http.MethodGet, "/history/"+id, nil, &run)
	return run
}
