package worker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

func startSubmit(t *testing.T, w *world, count int) (stop func()) {
	t.Helper()
	return start(t, func(ctx context.Context) error { return newSubmitWorker(w.SupervisorConfig).Run(ctx, count) })
}

func TestSubmit(t *testing.T) {
	t.Parallel()
	fails := func(err error) func(context.Context, engine.Submission) error {
		return func(context.Context, engine.Submission) error { return err }
	}
	tests := map[string]struct {
		execute func(context.Context, engine.Submission) error
		store   func(*fakeStore)
		want    string
	}{
		"a run that its cluster takes is accepted": {want: "accept r"},
		"a run that can never be executed is rejected": {
			execute: fails(fmt.Errorf("sizing: %w", engine.Rejected{Reason: "too big"})), want: "reject r: too big"},
		"a run that the cluster does not take now waits with the reason": {
			execute: fails(engine.NotNow{Reason: "quota"}), want: "defer r: quota"},
		"any other failure is tried again": {
			execute: fails(errors.New("reset")),
			want:    "defer r: Cluster c did not take the run, which is tried again: reset"},
		"a run whose definition is gone is rejected": {
			store: func(s *fakeStore) { s.missing = true },
			want:  "reject r: The task_definition d of this run no longer exists."},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eng := newFakeEngine()
			eng.execute = tt.execute
			w := makeWorld(t, eng)
			w.store.queued = []state.Run{queuedRun("r")}
			if tt.store != nil {
				tt.store(w.store)
			}
			startSubmit(t, w, 1)
			w.store.await(t, tt.want, 1)
		})
	}
}

func TestAcceptReturnsFalseForARunOfAnotherWorker(t *testing.T) {
	t.Parallel()
	eng, returned := newFakeEngine(), make(chan bool, 1)
	eng.execute = func(ctx context.Context, s engine.Submission) error {
		ok, err := s.Accept(ctx, state.Acceptance{})
		returned <- ok
		return err
	}
	w := makeWorld(t, eng)
	w.store.queued, w.store.refuse = []state.Run{queuedRun("r")}, true
	stop := startSubmit(t, w, 1)
	assert.False(t, <-returned)
	stop()
	assert.Zero(t, w.store.noted("defer r"), "the run is no longer this worker's to give back")
}

func TestSubmitIsWoken(t *testing.T) {
	t.Parallel()
	w := makeWorld(t, newFakeEngine())
	startSubmit(t, w, 1)
	w.store.await(t, "claim c", 1)
	w.store.with(func(s *fakeStore) { s.queued = []state.Run{queuedRun("r")} })
	w.notifier.Wake()
	w.store.await(t, "accept r", 1)
}

func TestSubmitPolls(t *testing.T) {
	t.Parallel()
	w := makeWorld(t, newFakeEngine())
	w.SubmitInterval = time.Millisecond
	startSubmit(t, w, 1)
	w.store.await(t, "claim c", 2)
	w.store.with(func(s *fakeStore) { s.queued = []state.Run{queuedRun("r")} })
	w.store.await(t, "accept r", 1)
}

func TestSubmitHandsOverAsManyRunsAtATimeAsItHasSlots(t *testing.T) {
	t.Parallel()
	eng, release := newFakeEngine(), make(chan struct{})
	var running, most atomic.Int64
	eng.execute = func(ctx context.Context, s engine.Submission) error {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		<-release
		_, err := s.Accept(ctx, state.Acceptance{})
		return err
	}
	w := makeWorld(t, eng)
	const all = 5 * slotsPerWorker
	for i := range all {
		w.store.queued = append(w.store.queued, queuedRun(fmt.Sprintf("r%d", i)))
	}
	startSubmit(t, w, 2)
	require.Eventually(t, func() bool { return running.Load() == 2*slotsPerWorker }, patience, time.Millisecond)
	close(release)
	for i := range all {
		w.store.await(t, fmt.Sprintf("accept r%d", i), 1)
	}
	assert.LessOrEqual(t, most.Load(), int64(2*slotsPerWorker))
}

func TestSubmitDoesNotWaitForAClusterThatHangs(t *testing.T) {
	t.Parallel()
	dead := newFakeEngine()
	dead.execute = func(ctx context.Context, _ engine.Submission) error { <-ctx.Done(); return ctx.Err() }
	w := makeWorld(t, newFakeEngine())
	w.clusters.set("dead", dead)
	w.clusters.set("closed", nil)
	w.SubmitInterval = time.Millisecond
	for i := range 2 * slotsPerWorker {
		run := queuedRun(fmt.Sprintf("d%d", i))
		run.ClusterName = "dead"
		w.store.queued = append(w.store.queued, run)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	loop := newSubmitLoop(newSubmitWorker(w.SupervisorConfig), keyOf("dead"), slotsPerWorker)
	hung, hang := context.WithCancel(t.Context())
	defer hang()
	dead.execute = func(context.Context, engine.Submission) error { <-hung.Done(); return nil }
	go func() { ended <- loop.run(ctx) }()
	startSubmit(t, w, 1)
	w.store.await(t, "claim c", 3)
	w.store.with(func(s *fakeStore) { s.queued = append(s.queued, queuedRun("r")) })
	w.store.await(t, "accept r", 1)
	assert.Zero(t, w.store.noted("claim closed"), "nothing is claimed for a cluster that cannot be opened")
	hang()
	cancel()
	require.NoError(t, <-ended)
}

func TestSubmitRenewsItsClaims(t *testing.T) {
	t.Parallel()
	eng, release := newFakeEngine(), make(chan struct{})
	eng.execute = func(ctx context.Context, s engine.Submission) error {
		<-release
		_, err := s.Accept(ctx, state.Acceptance{})
		return err
	}
	w := makeWorld(t, eng)
	w.ClaimLease = 3 * time.Millisecond
	w.store.queued = []state.Run{queuedRun("r")}
	startSubmit(t, w, 1)
	w.store.await(t, "renew r", 3)
	close(release)
	w.store.await(t, "accept r", 1)
}

func TestSubmitEnds(t *testing.T) {
	t.Parallel()
	eng, begun, release := newFakeEngine(), make(chan struct{}), make(chan struct{})
	eng.execute = func(ctx context.Context, s engine.Submission) error {
		close(begun)
		<-release
		_, err := s.Accept(ctx, state.Acceptance{})
		return err
	}
	w := makeWorld(t, eng)
	w.store.queued = []state.Run{queuedRun("r")}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- newSubmitWorker(w.SupervisorConfig).Run(ctx, 1) }()
	<-begun
	cancel()
	assert.Never(t, func() bool { return w.store.noted("release me") > 0 }, 50*time.Millisecond, time.Millisecond,
		"not before what is under way is finished")
	close(release)
	require.NoError(t, <-ended)
	assert.Equal(t, []string{"accept r", "release me"}, w.store.calls[len(w.store.calls)-2:])
}

func TestSubmitLeavesOfflineClustersAlone(t *testing.T) {
	t.Parallel()
	w := makeWorld(t, newFakeEngine())
	w.SubmitInterval = time.Millisecond
	w.clusters.set("off", newFakeEngine())
	w.clusters.set("upkeep", newFakeEngine())
	w.clusters.rows["off"] = state.Cluster{Status: state.ClusterOffline}
	w.clusters.rows["upkeep"] = state.Cluster{Status: state.ClusterMaintenance}
	startSubmit(t, w, 1)
	w.store.await(t, "claim c", 3)
	w.store.await(t, "claim upkeep", 3)
	assert.Zero(t, w.store.noted("claim off"))

	w.clusters.with(func(c *fakeClusters) {
		c.rows["off"], c.rows["c"] = c.rows["c"], c.rows["off"]
	})
	w.store.await(t, "claim off", 1)
	before := w.store.noted("claim c")
	w.store.await(t, "claim off", 10)
	assert.LessOrEqual(t, w.store.noted("claim c"), before+1, "one that goes offline is left alone from then on")
}

func TestDeferralGrows(t *testing.T) {
	t.Parallel()
	now := time.Now()
	tests := map[string]struct{ waited, want time.Duration }{
		"a fresh run waits a second":            {0, time.Second},
		"one that waited waits a quarter of it": {time.Minute, 15 * time.Second},
		"no run waits longer than a minute":     {time.Hour, time.Minute},
	}
	for name, tt := range tests {
		queued := now.Add(-tt.waited)
		assert.Equal(t, tt.want, deferral(state.Run{QueuedAt: &queued}, now), name)
	}
	assert.Equal(t, time.Second, deferral(state.Run{}, now))
}
