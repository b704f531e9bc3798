package state_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

func TestASelfReportMovesARunOnlyForward(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, from := range state.Statuses {
		for _, to := range state.Statuses {
			r := s.run(t, from)
			after, moved, err := s.SelfReportRun(t.Context(), r.RunID, state.SelfReport{Status: to})
			require.NoError(t, err)
			allowed := from.MayBecome(to) && to != state.StatusQueued
			assert.Equal(t, allowed, moved, "%s reported of a %s run", to, from)
			if allowed {
				assert.Equal(t, to, after.Status)
				assert.Equal(t, after.QueuedAt, after.StartedAt, "%s to %s", from, to)
			} else {
				assert.Equal(t, r, after, "%s to %s", from, to)
			}
			assert.Equal(t, allowed && to == state.StatusStopped, after.FinishedAt != nil, "%s to %s", from, to)
			assert.Equal(t, after, s.get(t, r.RunID))
		}
	}
}

func TestASelfReportThatStopsCarriesTheEnd(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(t, state.StatusRunning)
	start := time.Now().Add(-time.Hour).UTC().Truncate(time.Microsecond)
	s.force(t, r.RunID, `started_at = $2`, start)

	after, moved, err := s.SelfReportRun(t.Context(), r.RunID, state.SelfReport{
		Status: state.StatusStopped, ExitCode: new(int64(4)), ExitReason: new("my reason"), RunExceptions: []string{"boom"},
	})
	require.NoError(t, err)
	assert.True(t, moved)
	assert.Equal(t, new(int64(4)), after.ExitCode)
	assert.Equal(t, new("my reason"), after.ExitReason)
	assert.Equal(t, state.Strings{"boom"}, after.RunExceptions)
	assert.Equal(t, start, after.StartedAt.UTC())

	again, moved, err := s.SelfReportRun(t.Context(), r.RunID, state.SelfReport{
		Status: state.StatusStopped, ExitCode: new(int64(0)), ExitReason: new("other"), RunExceptions: []string{"bang"},
	})
	require.NoError(t, err)
	assert.False(t, moved)
	assert.Equal(t, after, again, "STOPPED is final, its reason and exceptions stay")
}

func TestASelfReportThatMovesNothingAddsAnAbsentReasonAndExceptions(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(t, state.StatusStopped)
	s.force(t, r.RunID, `exit_code = 1, run_exceptions = 'null'`)

	after, moved, err := s.SelfReportRun(t.Context(), r.RunID, state.SelfReport{
		Status: state.StatusRunning, ExitCode: new(int64(0)), ExitReason: new("late"), RunExceptions: []string{"boom"},
	})
	require.NoError(t, err)
	assert.False(t, moved)
	assert.Equal(t, state.StatusStopped, after.Status)
	assert.Equal(t, new(int64(1)), after.ExitCode)
	assert.Equal(t, new("late"), after.ExitReason)
	assert.Equal(t, state.Strings{"boom"}, after.RunExceptions)
}

func TestASelfReportIsCheckedForItsStatusAndRun(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	_, _, err := s.SelfReportRun(t.Context(), "no-such-run", state.SelfReport{Status: state.StatusRunning})
	assert.ErrorAs(t, err, new(state.MissingResource))
	r := s.run(t, state.StatusRunning)
	_, _, err = s.SelfReportRun(t.Context(), r.RunID, state.SelfReport{Status: "HAPPY"})
	assert.ErrorAs(t, err, new(state.MalformedInput))
}

func TestASelfReportedStopOfAClaimedRunEndsTheClaim(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(t, state.StatusQueued)
	s.claim(t, r.RunID)
	_, _, err := s.SelfReportRun(t.Context(), r.RunID, state.SelfReport{Status: state.StatusStopped})
	require.NoError(t, err)
	accepted, err := s.AcceptRun(t.Context(), r.RunID, "w", state.Acceptance{Size: state.Size{Memory: 1}})
	require.NoError(t, err)
	assert.False(t, accepted, "the cluster must not keep what the run ended")
}
