package worker

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

func startSupervisor(t *testing.T, w *world) (stop func()) {
	t.Helper()
	s, err := NewSupervisor(w.SupervisorConfig)
	require.NoError(t, err)
	return start(t, s.Run)
}

func TestSupervisorFollowsTheCounts(t *testing.T) {
	t.Parallel()
	w := makeWorld(t, newFakeEngine())
	w.SubmitInterval = time.Millisecond
	w.store.counts[state.WorkerSubmit] = 0
	w.store.queued = []state.Run{queuedRun("r")}
	stop := startSupervisor(t, w)
	w.store.await(t, "retries", 1)
	assert.Zero(t, w.store.noted("claim c"), "0 pauses")

	w.store.with(func(s *fakeStore) { s.counts[state.WorkerSubmit] = 1 })
	w.store.await(t, "accept r", 1)

	w.store.with(func(s *fakeStore) { s.counts[state.WorkerSubmit] = 0 })
	w.store.await(t, "release me", 1) // the worker has ended
	before := w.store.noted("claim c")
	w.store.with(func(s *fakeStore) { s.queued = []state.Run{queuedRun("late")} })
	w.notifier.Wake()
	stop()
	assert.Equal(t, before, w.store.noted("claim c"), "paused again")
}

func TestSupervisorStartsOnlyWhatIsEnabled(t *testing.T) {
	t.Parallel()
	w := makeWorld(t, newFakeEngine())
	w.Types = []state.WorkerType{state.WorkerRetry}
	stop := startSupervisor(t, w)
	w.store.await(t, "retries", 1)
	require.Eventually(t, func() bool { return w.locker.times(leadUpkeep) == 1 }, patience, time.Millisecond)
	stop()
	assert.Zero(t, w.store.noted("claim c"))
	assert.Zero(t, w.locker.times(leadSweep))
}

func TestSupervisorSurvivesAnUnreachableDatabase(t *testing.T) {
	t.Parallel()
	w := makeWorld(t, newFakeEngine())
	w.SubmitInterval = time.Millisecond
	startSupervisor(t, w)
	w.store.await(t, "claim c", 1)
	w.store.with(func(s *fakeStore) { s.failing = errors.New("connection refused") })
	w.store.await(t, "claim c", w.store.noted("claim c")+2)
	w.store.with(func(s *fakeStore) {
		s.failing, s.queued = nil, []state.Run{queuedRun("r")}
	})
	w.store.await(t, "accept r", 1)
}

func TestSupervisorNeedsItsParts(t *testing.T) {
	t.Parallel()
	_, err := NewSupervisor(SupervisorConfig{})
	assert.Error(t, err)
	w := makeWorld(t, newFakeEngine())
	w.Name = ""
	one, err := NewSupervisor(w.SupervisorConfig)
	require.NoError(t, err)
	other, err := NewSupervisor(w.SupervisorConfig)
	require.NoError(t, err)
	assert.NotEqual(t, one.cfg.Name, other.cfg.Name, "claimants differ, also within one host")
}
