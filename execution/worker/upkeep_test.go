package worker

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

func TestUpkeepExplainsWhyRunsWait(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		cluster string
		row     state.Cluster
		want    string
	}{
		"an unknown cluster":       {cluster: "gone", want: "There is no cluster named gone; the run waits until there is one."},
		"a cluster without driver": {cluster: "closed", want: "no driver for closed"},
		"an offline cluster": {
			cluster: "c", row: state.Cluster{Status: state.ClusterOffline}, want: "Cluster c is offline."},
		"an offline cluster with a reason": {
			cluster: "c", row: state.Cluster{Status: state.ClusterOffline, StatusReason: "upgrade"},
			want: "Cluster c is offline: upgrade"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := makeWorld(t, newFakeEngine())
			w.clusters.set("closed", nil)
			w.clusters.rows[tt.cluster] = tt.row
			w.store.depths = []state.QueueDepth{{EngineKey: keyOf(tt.cluster), Queued: 1}}
			require.NoError(t, newUpkeep(w.SupervisorConfig).measure(t.Context()))
			assert.Equal(t, []string{"explain " + tt.cluster + ": " + tt.want}, w.store.calls)
		})
	}
}

func TestUpkeepLeavesRunsAloneThatAreTaken(t *testing.T) {
	t.Parallel()
	w := makeWorld(t, newFakeEngine())
	w.clusters.set("closed", nil)
	w.store.depths = []state.QueueDepth{{EngineKey: keyOf("c"), Queued: 9}, {EngineKey: keyOf("closed"), Active: 1}}
	require.NoError(t, newUpkeep(w.SupervisorConfig).measure(t.Context()))
	assert.Empty(t, w.store.calls)
}

func TestUpkeepRetains(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 31, 12, 0, 0, 0, time.UTC)
	w := makeWorld(t, newFakeEngine())
	w.Clock = func() time.Time { return now }
	require.NoError(t, newUpkeep(w.SupervisorConfig).retain(t.Context()))
	assert.Empty(t, w.store.calls, "0 days keep everything")

	w.RetentionDays, w.store.expired = 30, retainPage+1
	require.NoError(t, newUpkeep(w.SupervisorConfig).retain(t.Context()))
	assert.Equal(t, 2, w.store.noted("delete before 2026-03-01"), "page after page")
}

func TestUpkeepDeletesTheRunsOfDeletedDefinitions(t *testing.T) {
	t.Parallel()
	w := makeWorld(t, newFakeEngine())
	start(t, newUpkeep(w.SupervisorConfig).Run)
	w.store.await(t, "delete runs of deleted definitions", 1)
}

func TestRetry(t *testing.T) {
	t.Parallel()
	w := makeWorld(t, newFakeEngine())
	w.store.retries = []state.Run{queuedRun("r")}
	start(t, func(ctx context.Context) error { return newRetryWorker(w.SupervisorConfig).Run(ctx, 1) })
	w.store.await(t, "retries", 1)
	require.Eventually(t, func() bool { return w.notifier.count() == 1 }, patience, time.Millisecond)
}
