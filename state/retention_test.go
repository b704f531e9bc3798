package state_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

const day = 24 * time.Hour

// ended stores a run that was queued and ended so long ago.
func (s store) ended(t testing.TB, queued, finished time.Duration) state.Run {
	t.Helper()
	r := s.run(t, state.StatusStopped)
	s.force(t, r.RunID, `queued_at = now() - make_interval(secs => $2), finished_at = now() - make_interval(secs => $3)`,
		queued.Seconds(), finished.Seconds())
	return r
}

func TestRetentionDeletesOldStoppedRunsInBatches(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for range 5 {
		s.ended(t, 40*day, 40*day)
	}
	kept := []string{
		s.ended(t, 29*day, 29*day).RunID,
		s.ended(t, 40*day, 29*day).RunID,
	}
	running := s.run(t, state.StatusRunning)
	s.force(t, running.RunID, `queued_at = now() - INTERVAL '40 days'`)
	kept = append(kept, running.RunID)

	for _, want := range []int{3, 2, 0} {
		n, err := s.DeleteOldRuns(t.Context(), time.Now().Add(-30*day), 3)
		require.NoError(t, err)
		assert.Equal(t, want, n)
	}
	for _, id := range kept {
		s.get(t, id)
	}
}

func TestRetentionKeepsTheRunsThatLookupsRead(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		window       time.Duration
		kept, notAny time.Duration
	}{
		"the week of runtimes and idempotence keys": {72 * time.Hour, 7*day - time.Hour, 7*day + time.Hour},
		"a longer window of ARA's":                  {20 * day, 20*day - time.Hour, 20*day + time.Hour},
	} {
		s := newStore(t, func(cfg *state.ManagerConfig) { cfg.ARA.Window = c.window })
		kept := s.ended(t, c.kept, c.kept)
		s.ended(t, c.notAny, c.notAny)
		n, err := s.DeleteOldRuns(t.Context(), time.Now(), 100)
		require.NoError(t, err)
		assert.Equal(t, 1, n, name)
		s.get(t, kept.RunID)
	}
}

func TestRunsOfDeletedDefinitionsAreDeletedInBatches(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	of := func(id string) func(*state.Run) { return func(r *state.Run) { r.DefinitionID = id } }
	for _, id := range []string{"a", "b", "c", "d"} {
		for range 2 {
			s.run(t, state.StatusStopped, of(id))
		}
	}
	tpl := s.run(t, state.StatusStopped, of("tpl-1"), func(r *state.Run) { r.ExecutableType = state.ExecutableTypeTemplate })
	active := s.run(t, state.StatusRunning, of("b"))
	s.exec(t, `DELETE FROM task_def WHERE definition_id IN ('b', 'd', 'tpl-1')`)

	for _, want := range []int{3, 1, 0} {
		n, err := s.DeleteOrphanRuns(t.Context(), 3)
		require.NoError(t, err)
		assert.Equal(t, want, n)
	}
	s.get(t, tpl.RunID)
	s.get(t, active.RunID)
	assert.Equal(t, 4, ask[int](t, s, `SELECT count(*) FROM task WHERE definition_id IN ('a', 'c')`))
}

func TestOnlyTheFirstStartAdoptsTheQueue(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	old := func(status state.Status) state.Run {
		r := s.run(t, status)
		s.force(t, r.RunID, `queued_at = now() - INTERVAL '2 hours'`)
		return r
	}
	lost, running, young := old(state.StatusQueued), old(state.StatusRunning), s.run(t, state.StatusQueued)

	n, err := s.AdoptQueued(t.Context(), time.Hour)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	r := s.get(t, lost.RunID)
	assert.Equal(t, state.StatusStopped, r.Status)
	assert.Equal(t, new(state.ExitCodeNeverStarted), r.ExitCode)
	assert.NotEmpty(t, *r.ExitReason)
	assert.NotNil(t, r.FinishedAt)
	assert.Equal(t, state.StatusRunning, s.get(t, running.RunID).Status)
	assert.Equal(t, state.StatusQueued, s.get(t, young.RunID).Status)

	ours := old(state.StatusQueued)
	n, err = s.AdoptQueued(t.Context(), time.Hour)
	require.NoError(t, err)
	assert.Zero(t, n)
	assert.Equal(t, state.StatusQueued, s.get(t, ours.RunID).Status, "a run that waits for our own clusters is not lost")
}
