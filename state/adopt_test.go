package state_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

// oldDatabase returns a database of the old program.
func oldDatabase(t testing.TB) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t)
	script, err := os.ReadFile("testdata/old_database.sql")
	require.NoError(t, err)
	_, err = db.Open(t).ExecContext(t.Context(), string(script))
	require.NoError(t, err)
	return db
}

// takeOver returns a Manager of a migrated oldDatabase.
func takeOver(t testing.TB) store {
	t.Helper()
	db := oldDatabase(t)
	require.NoError(t, statetest.Migrate(t.Context(), db.URL))
	s := store{Manager: statetest.Open(t, db.URL), url: db.URL, db: db.Open(t)}
	require.NoError(t, s.Check(t.Context()))
	return s
}

func TestAnOldDatabaseIsTakenOver(t *testing.T) {
	t.Parallel()
	s := takeOver(t)
	assert.Equal(t, 1, ask[int](t, s, `SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%gin (env%'`),
		"an index that exists under another name is not built twice")
	assert.Equal(t, 1, ask[int](t, s, `SELECT count(*) FROM information_schema.columns
		WHERE table_name = 'task' AND column_name = 'metrics'`), "unknown columns stay")

	full, err := s.GetDefinition(t.Context(), "def-full")
	require.NoError(t, err)
	assert.Equal(t, []string{"blue", "green"}, full.Tags)
	assert.Equal(t, []int64{80}, full.Ports)
	definitions, err := s.ListDefinitions(t.Context(), state.ListOptions{Limit: 10})
	require.NoError(t, err)
	assert.Len(t, definitions.Definitions, 3)
	updated, err := s.UpdateDefinition(t.Context(), "def-full", state.DefinitionUpdate{
		Definition: state.Definition{Tags: []string{"green"}}, Set: state.Columns{"tags"},
	})
	require.NoError(t, err)
	assert.Equal(t, []string{"green"}, updated.Tags)

	latest, err := s.GetTemplateVersion(t.Context(), "old", nil)
	require.NoError(t, err)
	assert.Equal(t, "tpl-2", latest.TemplateID)
	again, did, err := s.CreateTemplate(t.Context(), latest)
	require.NoError(t, err)
	assert.False(t, did, "%+v", again)

	workers, err := s.ListWorkers(t.Context(), state.EKSEngine)
	require.NoError(t, err)
	assert.Len(t, workers, 3)
	clusters, err := s.ListClusters(t.Context())
	require.NoError(t, err)
	require.Len(t, clusters, 1)
	assert.Equal(t, "us-east-1", clusters[0].Region)
}

func TestTheRunsOfAnOldDatabaseAreReadable(t *testing.T) {
	t.Parallel()
	s := takeOver(t)
	for _, sortBy := range []string{"group_name", "queued_at", "started_at"} {
		for _, order := range []string{state.OrderAscending, state.OrderDescending} {
			ids, total := s.runIDs(t, state.ListOptions{SortBy: sortBy, Order: order})
			assert.Len(t, ids, 6)
			assert.Equal(t, 6, total, "runs of a retired engine are listed only on request")
		}
	}
	for _, id := range []string{"eks-nothing", "eks-json-nulls", "ecs-ancient"} {
		run, err := s.GetRun(t.Context(), id)
		require.NoError(t, err)
		assert.Nil(t, run.CloudTrail.Records, id)
		assert.Equal(t, &state.SparkExtension{}, run.SparkExtension, id)
		assert.Empty(t, run.Env, id)
		assert.Empty(t, run.PodEvents, id)
		assert.Equal(t, "Tier4", run.Tier, id)
		assert.Empty(t, run.Labels, id)
		assert.Empty(t, run.SpawnedRuns, id)
		assert.Empty(t, run.RunExceptions, id)
		assert.Empty(t, run.RequestCustom, id)
	}
	_, err := s.EstimateRunResources(t.Context(), "def-full", *md5Of("echo full"))
	var missing state.MissingResource
	require.ErrorAs(t, err, &missing, "the hash of a description teaches nothing")
}

func TestRunsGoOnInAnOldDatabase(t *testing.T) {
	t.Parallel()
	s := takeOver(t)
	stopped, err := s.AdoptQueued(t.Context(), time.Hour)
	require.NoError(t, err)
	assert.Equal(t, 1, stopped)
	assert.Equal(t, md5Of("echo full"), s.get(t, "eks-queued").CommandHash)
	assert.Equal(t, md5Of("echo full"), s.get(t, "eks-running").CommandHash)
	assert.Equal(t, md5Of("nightly"), s.get(t, "eks-old-hash").CommandHash, "the hash of a stopped run is not migrated")
	claimed, err := s.ClaimRuns(t.Context(), state.ClaimRequest{EngineKey: state.EngineKey{Cluster: "sun", Engine: state.EKSEngine}, Worker: "w", Lease: time.Minute, Limit: 10})
	require.NoError(t, err)
	require.Len(t, claimed, 1)
	assert.Equal(t, "eks-queued", claimed[0].RunID)
	moved, err := s.MoveRun(t.Context(), "eks-running", 1, state.StatusStopped, state.RunUpdate{ExitCode: new(int64(0))})
	require.NoError(t, err)
	assert.True(t, moved, "a run of the old program has no attempt_count")
	created, did, err := s.CreateRun(t.Context(), state.Run{
		RunID: state.NewRunID(state.EKSEngine), DefinitionID: "tpl-2", ExecutableID: new("tpl-2"), Engine: state.EKSEngine,
		ExecutableType: state.ExecutableTypeTemplate, ClusterName: "sun", Status: state.StatusQueued,
	})
	require.NoError(t, err, "the foreign key to task_def is gone")
	assert.True(t, did)
	assert.Equal(t, "tpl-2", created.DefinitionID)
}

// Going back is a redeploy: what the old program writes must still fit.
func TestTheOldProgramCanStillWrite(t *testing.T) {
	t.Parallel()
	s := takeOver(t)
	for _, statement := range []string{
		`INSERT INTO task_def (definition_id, image, group_name, container_name, alias, memory, command, env, cpu, gpu, adaptive_resource_allocation)
			VALUES ('back', 'image', 'g', 'back', 'back', 512, 'ls', '[]', 256, NULL, true)`,
		`INSERT INTO task_def_ports (task_def_id, port) VALUES ('back', 1)`,
		`INSERT INTO tags (text) SELECT 'new' WHERE NOT EXISTS (SELECT FROM tags WHERE text = 'new')`,
		`INSERT INTO task_def_tags (task_def_id, tag_id) VALUES ('back', 'new'), ('back', 'new')`,
		`INSERT INTO task (run_id, definition_id, alias, image, cluster_name, exit_code, status, queued_at, env, engine, executable_id,
			executable_type, command_hash, description, attempt_count) VALUES
			('eks-back', 'back', 'back', 'image', 'sun', NULL, 'QUEUED', now(), '[]', 'eks', 'back', 'task_definition', 'h', 'd', NULL)`,
		`UPDATE task SET status = 'RUNNING', started_at = now(), attempt_count = 1, pod_name = 'p' WHERE run_id = 'eks-back'`,
		`INSERT INTO template (template_id, template_name, version, schema, command_template, image, memory, gpu, cpu, container_name)
			VALUES ('tpl-3', 'old', 3, '{}', 'ls', 'i', 1, 0, 1, 'tpl-3')`,
		`INSERT INTO worker (worker_type, engine, count_per_instance) VALUES ('retry', 'eks', 1)`,
		`INSERT INTO cluster_state (name, region, status) VALUES ('back', 'us', 'maintenance')`,
		`DELETE FROM task WHERE run_id = 'eks-back'`,
	} {
		s.exec(t, statement)
	}
	back, err := s.GetDefinition(t.Context(), "back")
	require.NoError(t, err)
	assert.Equal(t, []string{"new"}, back.Tags)
}

// Spark runs are left as they are until this program executes them.
func TestActiveSparkRunsAreNotAdopted(t *testing.T) {
	t.Parallel()
	s := takeOver(t)
	s.exec(t, `INSERT INTO task (run_id, engine, status, command, command_hash, queued_at, cluster_name) VALUES
		('spark-running', 'eks-spark', 'RUNNING', 'x', 'old', now(), 'sun'), ('spark-lost', 'eks-spark', 'QUEUED', 'x', 'old', now() - interval '3 days', 'sun')`)
	const asIs = `SELECT string_agg(t::text, '|' ORDER BY run_id) FROM task t WHERE engine = 'eks-spark'`
	before := ask[string](t, s, asIs)
	stopped, err := s.AdoptQueued(t.Context(), time.Hour)
	require.NoError(t, err)
	assert.Equal(t, 1, stopped, "the container run only")
	assert.Equal(t, before, ask[string](t, s, asIs))
}

// The old program stored the empty tag with every update of a definition.
func TestEmptyTagsAreDropped(t *testing.T) {
	t.Parallel()
	s := takeOver(t)
	s.exec(t, `INSERT INTO tags VALUES ('')`)
	s.exec(t, `INSERT INTO task_def_tags VALUES ('', 'def-full'), ('', 'def-full')`)
	d, err := s.GetDefinition(t.Context(), "def-full")
	require.NoError(t, err)
	assert.Equal(t, []string{"blue", "green"}, d.Tags)
	list, err := s.ListDefinitions(t.Context(), state.ListOptions{Limit: 10, Filters: map[string][]string{"alias": {"full"}}})
	require.NoError(t, err)
	assert.Equal(t, []string{"blue", "green"}, list.Definitions[0].Tags)
	tags, err := s.ListTags(t.Context(), 10, 0, "")
	require.NoError(t, err)
	assert.Equal(t, state.NameList{Total: 2, Names: []string{"blue", "green"}}, tags)
	updated, err := s.UpdateDefinition(t.Context(), "def-full", state.DefinitionUpdate{Definition: state.Definition{Tags: []string{"", "red", ""}}, Set: state.Columns{"tags"}})
	require.NoError(t, err)
	assert.Equal(t, []string{"red"}, updated.Tags)
	groups, err := s.ListGroups(t.Context(), 10, 0, "")
	require.NoError(t, err)
	assert.NotContains(t, groups.Names, "")
}
