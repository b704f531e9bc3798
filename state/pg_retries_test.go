package state_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

func TestARetryWaitsAndForgetsTheFailedAttempt(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	policy := state.RetryPolicy{MaxAttempts: 10, BaseDelay: 10 * time.Second, MaxDelay: time.Minute, Limit: 5, Engines: testEngines}
	for attempt, delay := range map[int]time.Duration{1: 10 * time.Second, 2: 20 * time.Second, 3: 40 * time.Second, 4: time.Minute, 9: time.Minute} {
		r := s.run(t, state.StatusNeedsRetry)
		s.force(t, r.RunID, `attempt_count = $2, exit_reason = 'node was lost', claimed_by = 'n1', instance_id = 'n1',
			instance_dns_name = 'node-1', pod_name = 'pod-1', memory = 896, started_at = queued_at`, attempt)

		requeued, stopped, err := s.RequeueRetries(t.Context(), policy)
		require.NoError(t, err)
		assert.Empty(t, stopped)
		require.Equal(t, []string{r.RunID}, ids(requeued))

		after := s.get(t, r.RunID)
		assert.Equal(t, state.StatusQueued, after.Status)
		assert.Equal(t, int64(attempt+1), after.Attempt())
		assert.WithinDuration(t, time.Now().Add(delay), *after.NextAttemptAt, 5*time.Second)
		assert.Contains(t, *after.StatusReason, "node was lost")
		assert.Nil(t, after.ExitReason)
		assert.Nil(t, after.ClaimedBy)
		assert.Nil(t, after.PodName)
		assert.Empty(t, after.InstanceID+after.InstanceDNS)
		assert.Equal(t, new(int64(896)), after.Memory, "the first attempt's decision stays")
		assert.NotNil(t, after.StartedAt, "the deadline counts from the first start")
		s.exec(t, `DELETE FROM task`)
	}
}

func TestUsedUpAttemptsStopTheRunWithItsLastReason(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	policy := state.RetryPolicy{MaxAttempts: 3, BaseDelay: time.Second, MaxDelay: time.Minute, Limit: 5, Engines: testEngines}
	never, once := s.run(t, state.StatusNeedsRetry), s.run(t, state.StatusNeedsRetry)
	s.force(t, never.RunID, `attempt_count = 3, exit_reason = 'image pull gave up'`)
	s.force(t, once.RunID, `attempt_count = 3, exit_reason = 'evicted', started_at = now()`)
	more := s.run(t, state.StatusNeedsRetry)
	s.force(t, more.RunID, `attempt_count = NULL`)

	requeued, stopped, err := s.RequeueRetries(t.Context(), policy)
	require.NoError(t, err)
	assert.Equal(t, []string{more.RunID}, ids(requeued))
	assert.ElementsMatch(t, []string{never.RunID, once.RunID}, ids(stopped))
	assert.Equal(t, int64(2), s.get(t, more.RunID).Attempt())

	r := s.get(t, never.RunID)
	assert.Equal(t, state.StatusStopped, r.Status)
	assert.Equal(t, new(state.ExitCodeNeverStarted), r.ExitCode)
	assert.Equal(t, new("image pull gave up"), r.ExitReason)
	assert.NotNil(t, r.FinishedAt)
	r = s.get(t, once.RunID)
	assert.Nil(t, r.ExitCode, "no code of the command is known")
	assert.Equal(t, new("evicted"), r.ExitReason)
}
