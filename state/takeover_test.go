package state_test

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

func TestATakeoverIsInspectedBeforeTheMigration(t *testing.T) {
	t.Parallel()
	db := oldDatabase(t)
	pool := db.Open(t)
	script, err := os.ReadFile("testdata/old_oddities.sql")
	require.NoError(t, err)
	_, err = pool.ExecContext(t.Context(), string(script))
	require.NoError(t, err)
	report, err := state.InspectTakeover(t.Context(), db.URL, time.Hour)
	require.NoError(t, err)

	assert.False(t, report.TakenOver)
	assert.Equal(t, state.Findings{Count: 1, IDs: []string{"def-off"}}, report.ARAOff)
	assert.Equal(t, state.Findings{Count: 1, IDs: []string{"def-off"}}, report.RequiresDocker)
	assert.Equal(t, state.Findings{Count: 1, IDs: []string{"def-off"}}, report.EmptyTags)
	assert.Equal(t, state.Findings{Count: 2, IDs: []string{"spark-active", "spark-queued"}}, report.ActiveSpark)
	assert.EqualValues(t, 3, report.SparkRuns)
	assert.Equal(t, state.Findings{Count: 1, IDs: []string{"eks-lost-in-queue"}}, report.LostInQueue)
	assert.EqualValues(t, 3, report.ActiveWithoutHash.Count)
	assert.Equal(t, state.Findings{Count: 1, IDs: []string{"eks-wrong-hash"}}, report.ActiveWrongHash)
	assert.EqualValues(t, 3, report.DuplicateWorkers.Count)
	clusters := map[string]state.TakeoverCluster{}
	for _, c := range report.Clusters {
		clusters[c.Name] = c
	}
	assert.False(t, clusters["sun"].Stale, "it has runs")
	assert.EqualValues(t, 2, clusters["sun"].Rows)
	assert.True(t, clusters["moon"].Stale)
	assert.False(t, clusters["new"].Stale)

	odd := map[string]int64{}
	for _, c := range report.OddJSON {
		odd[c.Table+"."+c.Column] = c.Count
		assert.NotContains(t, c.IDs, "eks-fine")
		assert.NotContains(t, c.IDs, "eks-json-nulls")
		assert.LessOrEqual(t, len(c.IDs), 5)
	}
	assert.Equal(t, map[string]int64{
		"task.env": 6, "task_def.env": 1, "task.labels": 6, "task.pod_events": 6, "task.cloudtrail_notifications": 5, "task.spark_extension": 5,
		"task.execution_request_custom": 5, "task.spawned_runs": 5, "task.run_exceptions": 6,
	}, odd)

	assert.Contains(t, report.Schema.Missing, "task.claimed_by")
	assert.Contains(t, report.Schema.Missing, "flotilla_node")
	assert.NotContains(t, report.Schema.Missing, "task.run_id")
	assert.Len(t, report.Schema.ForeignKeys, 1)
	assert.Empty(t, report.Schema.NotOwned)
	assert.Contains(t, report.Schema.MissingIndexes, "flotilla_task_live")
	assert.NotContains(t, report.Schema.MissingIndexes, "flotilla_task_env", "it exists under another name")
	assert.NotEmpty(t, report.Schema.UnusedIndexes)
	_, err = json.Marshal(report)
	require.NoError(t, err)

	require.NoError(t, statetest.Migrate(t.Context(), db.URL))
	report, err = state.InspectTakeover(t.Context(), db.URL, time.Hour)
	require.NoError(t, err)
	assert.Empty(t, report.Schema.Missing)
	assert.Empty(t, report.Schema.MissingIndexes)
	assert.Empty(t, report.Schema.ForeignKeys)
}

func TestATakeoverOfAnEmptyDatabaseIsInspected(t *testing.T) {
	t.Parallel()
	report, err := state.InspectTakeover(t.Context(), pgtest.New(t).URL, time.Hour)
	require.NoError(t, err)
	assert.Contains(t, report.Schema.Missing, "task")
	assert.Empty(t, report.Clusters)
}
