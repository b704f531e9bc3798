package worker

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/testkit"
)

// A cluster is gone when its row was deleted or renamed, or it was removed from the configuration.
func TestAClusterThatIsGoneIsFollowedWhileItHasActiveRuns(t *testing.T) {
	t.Parallel()
	eng, logs := newFakeEngine(), &testkit.Log{}
	ended := make(chan struct{}, 1)
	eng.follow = func(ctx context.Context, _ engine.Observer) error {
		<-ctx.Done()
		ended <- struct{}{}
		return nil
	}
	w := makeWorld(t, eng)
	w.Logger = slog.New(slog.NewTextHandler(logs, nil))
	w.store.active = []state.Run{queuedRun("r")}
	status := newStatusWorker(w.SupervisorConfig)
	status.grace = time.Millisecond
	start(t, func(ctx context.Context) error { return status.Run(ctx, 1) })
	require.Eventually(t, func() bool { return w.locker.times(leadFollow+"c") == 1 }, patience, time.Millisecond)
	w.clusters.with(func(c *fakeClusters) { c.gone["c"] = true })
	w.store.await(t, "active of c", 2)
	assert.Empty(t, ended, "it has an active run")

	w.store.with(func(s *fakeStore) { s.active = nil })
	<-ended
	require.Eventually(t, func() bool {
		w.clusters.mu.Lock()
		defer w.clusters.mu.Unlock()
		return len(w.clusters.dropped) == 1 && w.clusters.dropped[0] == keyOf("c")
	}, patience, time.Millisecond)
	assert.NotContains(t, logs.String(), "WARN")

	w.clusters.with(func(c *fakeClusters) { c.gone["c"] = false })
	require.Eventually(t, func() bool { return w.locker.times(leadFollow+"c") == 2 }, patience, time.Millisecond, "it came back")
}

func TestUnfollowedRunsOfAClusterThatIsGoneAreLoggedOnce(t *testing.T) {
	t.Parallel()
	const message = "active runs of a cluster that is gone"
	w, logs := makeWorld(t, newFakeEngine()), &testkit.Log{}
	w.Logger = slog.New(slog.NewTextHandler(logs, nil))
	u := newUpkeep(w.SupervisorConfig)
	w.store.depths = []state.QueueDepth{{EngineKey: keyOf("gone"), Active: 2}, {EngineKey: keyOf("c"), Active: 1}}
	w.store.locks = map[string]bool{leadFollow + "gone": true}
	require.NoError(t, u.measure(t.Context()))
	assert.NotContains(t, logs.String(), message, "another server follows it still")
	w.store.locks = nil
	for range 3 {
		require.NoError(t, u.measure(t.Context()))
	}
	assert.Equal(t, 1, strings.Count(logs.String(), message), logs.String())
	assert.Contains(t, logs.String(), "cluster=gone engine=eks runs=2")

	w.clusters.set("gone", newFakeEngine())
	require.NoError(t, u.measure(t.Context()))
	w.clusters.with(func(c *fakeClusters) { delete(c.engines, "gone") })
	require.NoError(t, u.measure(t.Context()))
	assert.Equal(t, 2, strings.Count(logs.String(), message), "it came back and went again")
}

func TestTheGaugesOfAClusterThatIsGoneAreSetToZeroOnce(t *testing.T) {
	t.Parallel()
	w := makeWorld(t, newFakeEngine())
	u := newUpkeep(w.SupervisorConfig)
	w.store.depths = []state.QueueDepth{{EngineKey: keyOf("c"), Active: 3}}
	require.NoError(t, u.measure(t.Context()))
	w.store.depths = nil
	w.clusters.with(func(c *fakeClusters) { c.gone["c"] = true })
	for range 3 {
		require.NoError(t, u.measure(t.Context()))
	}
	assert.Equal(t, []float64{3, 0}, w.metrics.Values(metrics.RunsActive, keyTags(keyOf("c"))...))
}

func TestQueuedSparkRunsHaveAReason(t *testing.T) {
	t.Parallel()
	w := makeWorld(t, newFakeEngine())
	key := state.EngineKey{Cluster: "c", Engine: state.EKSSparkEngine}
	w.store.depths = []state.QueueDepth{{EngineKey: key, Queued: 1}}
	require.NoError(t, newUpkeep(w.SupervisorConfig).measure(t.Context()))
	assert.Equal(t, []string{"explain c: no engine for eks-spark"}, w.store.calls)
}

func TestWarningOfADatabaseThatNoServerServes(t *testing.T) {
	t.Parallel()
	w, logs := makeWorld(t, newFakeEngine()), &testkit.Log{}
	w.Logger = slog.New(slog.NewTextHandler(logs, nil))
	s, err := NewSupervisor(w.SupervisorConfig)
	require.NoError(t, err)
	look := func() map[state.WorkerType]string {
		require.NoError(t, s.upkeep.lookForWorkers(t.Context()))
		return s.Unfollowed()
	}
	assert.Len(t, look(), 2)
	assert.Equal(t, 2, strings.Count(logs.String(), "no live server runs workers of this type"))
	w.store.counts[state.WorkerSubmit] = 0
	assert.Contains(t, look(), state.WorkerStatus)
	assert.NotContains(t, look(), state.WorkerSubmit, "an operator paused it")
	w.store.locks = map[string]bool{leadSweep: true}
	assert.Empty(t, look())
	assert.Equal(t, []float64{1, 1, 1, 0}, w.metrics.Values(metrics.WorkersMissing, "worker_type:status"))
}

func TestFollowingThatFailsIsLoggedOnce(t *testing.T) {
	t.Parallel()
	eng, logs := newFakeEngine(), &testkit.Log{}
	begun := make(chan struct{}, 100)
	eng.follow = func(context.Context, engine.Observer) error {
		begun <- struct{}{}
		return errors.New("no such host")
	}
	w := makeWorld(t, eng)
	w.Logger = slog.New(slog.NewTextHandler(logs, nil))
	startStatus(t, w)
	for range 4 {
		<-begun
	}
	assert.Equal(t, 1, strings.Count(logs.String(), "no such host"), logs.String())
}
