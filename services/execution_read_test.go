package services

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

func TestGetShowsSpawnedRunsAndMetrics(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(s *setup) { s.config.EKS.MetricsServerURI = "https://metrics/d?x=1" })
	d := b.definition(t, nil)
	parent := b.run(t, d, state.ExecutionRequestCommon{})
	b.clock.Advance(time.Second)
	child := b.child(t, d, parent.RunID)
	assert.Nil(t, parent.MetricsURI, "nothing to show before the start")

	started := time.UnixMilli(1_700_000_000_000)
	b.exec(t, `UPDATE task SET status = 'RUNNING', started_at = $2 WHERE run_id = $1`, parent.RunID, started)
	got, err := b.executions.Get(t.Context(), parent.RunID)
	require.NoError(t, err)
	assert.Equal(t, state.SpawnedRuns{{RunID: child.RunID}}, got.SpawnedRuns)
	uri := func(end time.Time) string {
		return fmt.Sprintf("https://metrics/d?x=1&tpl_var_flotilla_run_id=%s&from_ts=%d&to_ts=%d&live=true",
			parent.RunID, started.UnixMilli()-60_000, end.UnixMilli()+60_000)
	}
	assert.Equal(t, uri(b.clock.Now()), *got.MetricsURI)

	finished := started.Add(time.Hour)
	b.exec(t, `UPDATE task SET status = 'STOPPED', finished_at = $2 WHERE run_id = $1`, parent.RunID, finished)
	list, err := b.executions.ListForExecutable(t.Context(), d.DefinitionID, state.ListOptions{Limit: 10, SortBy: "queued_at", Order: "asc"})
	require.NoError(t, err)
	require.Len(t, list.Runs, 2)
	assert.Equal(t, uri(finished), *list.Runs[0].MetricsURI)
	assert.Nil(t, list.Runs[1].MetricsURI)
}

func TestListForExecutableKeepsTheCallersFilters(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	one, two := b.definition(t, nil), b.definition(t, nil)
	b.run(t, one, state.ExecutionRequestCommon{OwnerID: "ada"})
	b.run(t, one, state.ExecutionRequestCommon{OwnerID: "bob"})
	b.run(t, two, state.ExecutionRequestCommon{OwnerID: "ada"})
	filters := map[string][]string{"user": {"ada"}}
	list, err := b.executions.ListForExecutable(t.Context(), one.DefinitionID, state.ListOptions{Limit: 10, Filters: filters})
	require.NoError(t, err)
	assert.Equal(t, 1, list.Total)
	assert.Equal(t, map[string][]string{"user": {"ada"}}, filters)
}

func TestEvents(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	run := b.run(t, b.definition(t, nil), state.ExecutionRequestCommon{})
	events := func() state.PodEvents {
		t.Helper()
		got, err := b.executions.Events(t.Context(), run.RunID)
		require.NoError(t, err)
		return got
	}
	b.engine.events = state.PodEvents{{Reason: "asked"}}
	assert.Equal(t, state.PodEvents{}, events(), "a queued run is not the cluster's yet")
	b.exec(t, `UPDATE task SET status = 'RUNNING' WHERE run_id = $1`, run.RunID)
	assert.Equal(t, b.engine.events, events())
	b.engine.events = nil
	assert.Equal(t, state.PodEvents{}, events())
	b.engine.eventsErr = errors.New("unreachable")
	assert.Equal(t, state.PodEvents{}, events())
	b.exec(t, `UPDATE task SET pod_events = '[{"reason": "stored"}]' WHERE run_id = $1`, run.RunID)
	assert.Equal(t, state.PodEvents{{Reason: "stored"}}, events())
	b.exec(t, `UPDATE task SET pod_events = 'null', cluster_name = 'gone' WHERE run_id = $1`, run.RunID)
	assert.Equal(t, state.PodEvents{}, events())
}

func TestManifest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	run := b.run(t, b.definition(t, nil), state.ExecutionRequestCommon{})
	var missing state.MissingResource
	_, err := b.executions.Manifest(t.Context(), run.RunID)
	require.ErrorAs(t, err, &missing)
	b.engine.manifest = []byte("kind: Job\n")
	got, err := b.executions.Manifest(t.Context(), run.RunID)
	require.NoError(t, err)
	assert.Equal(t, "kind: Job\n", string(got))
	b.exec(t, `UPDATE task SET cluster_name = 'gone' WHERE run_id = $1`, run.RunID)
	_, err = b.executions.Manifest(t.Context(), run.RunID)
	require.ErrorAs(t, err, &missing)
}
