package worker

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

func startStatus(t *testing.T, w *world) (stop func()) {
	t.Helper()
	return start(t, func(ctx context.Context) error { return newStatusWorker(w.SupervisorConfig).Run(ctx, 1) })
}

func TestFollow(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		eng  func(*fakeEngine) engine.Engine
		lead int
	}{
		"a cluster is followed by one server among all": {func(e *fakeEngine) engine.Engine { return e }, 1},
		"runs on the server's machine by that server":   {func(e *fakeEngine) engine.Engine { return nodeEngine{e} }, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eng := newFakeEngine()
			eng.follow = func(ctx context.Context, o engine.Observer) error {
				assert.NoError(t, o.Observe(ctx, engine.Observation{RunID: "r", Attempt: 1, Status: state.StatusRunning}))
				<-ctx.Done()
				return nil
			}
			w := makeWorld(t, tt.eng(eng))
			startStatus(t, w)
			w.store.await(t, "move r RUNNING", 1)
			assert.Equal(t, tt.lead, w.locker.times(leadFollow+"c"))
		})
	}
}

func TestFollowIsStartedAgain(t *testing.T) {
	t.Parallel()
	failing := func(begun *atomic.Int64) *fakeEngine {
		eng := newFakeEngine()
		eng.follow = func(ctx context.Context, _ engine.Observer) error {
			if begun.Add(1) == 1 {
				return errors.New("watch closed")
			}
			<-ctx.Done()
			return nil
		}
		return eng
	}
	var onNode, elsewhere atomic.Int64
	w := makeWorld(t, nodeEngine{failing(&onNode)})
	w.clusters.set("kube", failing(&elsewhere))
	startStatus(t, w)
	require.Eventually(t, func() bool { return onNode.Load() == 2 && elsewhere.Load() == 2 }, patience, 1e6)
	assert.Equal(t, 2, w.locker.times(leadFollow+"kube"), "the lead is given up in between")
}

func TestFollowChangesToTheNewEngine(t *testing.T) {
	t.Parallel()
	w := makeWorld(t, nodeEngine{newFakeEngine()})
	startStatus(t, w)
	again := newFakeEngine()
	again.follow = func(ctx context.Context, o engine.Observer) error {
		assert.NoError(t, o.Observe(ctx, engine.Observation{RunID: "r", Attempt: 1}))
		<-ctx.Done()
		return nil
	}
	w.clusters.set("c", nodeEngine{again})
	w.store.await(t, "annotate r", 1)
}

func TestObserve(t *testing.T) {
	t.Parallel()
	seen := func(s state.Status) engine.Observation {
		return engine.Observation{RunID: "r", Attempt: 1, Status: s}
	}
	tests := map[string]struct {
		seen       engine.Observation
		unmoved    bool
		now        state.Status
		calls      []string
		terminated bool
	}{
		"a change of status is one move": {
			seen: seen(state.StatusRunning), now: state.StatusRunning, calls: []string{"move r RUNNING"}},
		"details alone never move a run": {
			seen: seen(""), now: state.StatusRunning, calls: []string{"annotate r"}},
		"what is known already keeps its details": {
			seen: seen(state.StatusRunning), unmoved: true, now: state.StatusRunning,
			calls: []string{"move r RUNNING", "annotate r"}},
		"a process of a stopped run is terminated": {
			seen: seen(state.StatusRunning), unmoved: true, now: state.StatusStopped,
			calls: []string{"move r RUNNING", "annotate r"}, terminated: true},
		"the end of a stopped run only adds details": {
			seen: seen(state.StatusStopped), unmoved: true, now: state.StatusStopped,
			calls: []string{"move r STOPPED", "annotate r"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eng := newFakeEngine()
			w := makeWorld(t, eng)
			w.store.unmoved = tt.unmoved
			w.store.run = state.Run{RunID: "r", ClusterName: "c", Status: tt.now}
			require.NoError(t, w.observer("c").Observe(t.Context(), tt.seen))
			assert.Equal(t, tt.calls, w.store.calls)
			assert.Equal(t, tt.terminated, len(eng.terminated) == 1)
		})
	}
}

func TestObserveReturnsWhatWasNotRecorded(t *testing.T) {
	t.Parallel()
	w := makeWorld(t, newFakeEngine())
	w.store.failing = errors.New("connection refused")
	for _, status := range []state.Status{"", state.StatusRunning} {
		err := w.observer("c").Observe(t.Context(), engine.Observation{RunID: "r", Status: status})
		assert.ErrorIs(t, err, w.store.failing)
	}
}

func TestSweep(t *testing.T) {
	t.Parallel()
	eng := newFakeEngine()
	w := makeWorld(t, eng)
	w.clusters.rows["c"] = state.Cluster{Driver: state.DriverLocal}
	w.clusters.set("kube", newFakeEngine())
	late := queuedRun("late")
	late.ActiveDeadlineSeconds = new(int64(5))
	w.store.overdue, w.store.orphans = []state.Run{late}, 2
	startStatus(t, w)
	w.store.await(t, "move late STOPPED: The run exceeded its deadline of 5 seconds.", 1)
	assert.Equal(t, "late", <-eng.terminated)
	w.store.await(t, "lost of c", 2)
	assert.Zero(t, w.store.noted("lost of kube"), "a cluster that is followed reports what it lost")
	assert.Equal(t, 1, w.notifier.count(), "requeued orphans are submitted at once")
	assert.Equal(t, 1, w.locker.times(leadSweep))
}

func TestSweepTerminatesOnlyWhatItStopped(t *testing.T) {
	t.Parallel()
	eng := newFakeEngine()
	w := makeWorld(t, eng)
	w.store.unmoved = true
	require.NoError(t, newSweep(w.SupervisorConfig).stopAtDeadline(t.Context(), queuedRun("r")))
	assert.Empty(t, eng.terminated)
}
