package state_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

func TestTwoClaimantsNeverShareARun(t *testing.T) {
	t.Parallel()
	const runs, claimants = 500, 16
	s := newStore(t)
	for range runs {
		s.run(t, state.StatusQueued)
	}
	var mu sync.Mutex
	owner := map[string]string{}
	var all sync.WaitGroup
	for i := range claimants {
		worker := fmt.Sprintf("w-%d", i)
		all.Go(func() {
			for {
				got, err := s.ClaimRuns(t.Context(), state.ClaimRequest{
					EngineKey: testKey, Worker: worker, Lease: time.Minute, Limit: 7,
				})
				if !assert.NoError(t, err) || len(got) == 0 {
					return
				}
				assert.LessOrEqual(t, len(got), 7)
				mu.Lock()
				for _, r := range got {
					assert.Empty(t, owner[r.RunID], "%s was claimed twice", r.RunID)
					owner[r.RunID] = worker
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	assert.Len(t, owner, runs)
	for id, worker := range owner {
		assert.Equal(t, new(worker), s.get(t, id).ClaimedBy)
	}
}

func TestClaimsGoOldestFirstWithinACluster(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	now := time.Now()
	queued := func(age time.Duration) func(*state.Run) {
		return func(r *state.Run) { r.QueuedAt = new(now.Add(-age)) }
	}
	young := s.run(t, state.StatusQueued, queued(time.Minute))
	old := s.run(t, state.StatusQueued, queued(time.Hour))
	middle := s.run(t, state.StatusQueued, queued(30*time.Minute))
	s.run(t, state.StatusQueued, queued(2*time.Hour), func(r *state.Run) { r.ClusterName = "dead" })
	s.run(t, state.StatusPending, queued(2*time.Hour))

	got, err := s.ClaimRuns(t.Context(), state.ClaimRequest{EngineKey: testKey, Worker: "w", Lease: time.Minute, Limit: 2})
	require.NoError(t, err)
	assert.Equal(t, []string{old.RunID, middle.RunID}, ids(got))
	assert.Equal(t, new("w"), got[0].ClaimedBy)
	assert.WithinDuration(t, time.Now().Add(time.Minute), *got[0].ClaimedUntil, 30*time.Second)
	assert.Equal(t, state.StatusQueued, got[0].Status)
	s.claim(t, young.RunID)
}

func TestARunCanBeClaimedAgainWhenItsLeaseIsOver(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(t, state.StatusQueued)
	s.claim(t, r.RunID)
	req := state.ClaimRequest{EngineKey: testKey, Worker: "w2", Lease: time.Minute, Limit: 1}
	got, err := s.ClaimRuns(t.Context(), req)
	require.NoError(t, err)
	require.Empty(t, got, "the lease holds")

	s.force(t, r.RunID, `claimed_until = now() - INTERVAL '1 second'`)
	require.NoError(t, s.RenewClaims(t.Context(), "w", []string{r.RunID}, time.Minute))
	got, err = s.ClaimRuns(t.Context(), req)
	require.NoError(t, err)
	require.Empty(t, got, "the lease was renewed")

	s.force(t, r.RunID, `claimed_until = now() - INTERVAL '1 second'`)
	got, err = s.ClaimRuns(t.Context(), req)
	require.NoError(t, err)
	require.Len(t, got, 1)

	require.NoError(t, s.RenewClaims(t.Context(), "w", []string{r.RunID}, time.Hour))
	assert.Less(t, time.Until(*s.get(t, r.RunID).ClaimedUntil), 2*time.Minute, "w holds it no longer")
	for name, call := range map[string]func() (bool, error){
		"accept": func() (bool, error) { return s.AcceptRun(t.Context(), r.RunID, "w", state.Acceptance{}) },
		"reject": func() (bool, error) { return s.RejectRun(t.Context(), r.RunID, "w", "no") },
		"defer":  func() (bool, error) { return false, s.DeferRun(t.Context(), r.RunID, "w", "no", time.Now()) },
	} {
		did, err := call()
		require.NoError(t, err)
		assert.False(t, did, name)
	}
	assert.Equal(t, new("w2"), s.get(t, r.RunID).ClaimedBy)
	assert.Equal(t, state.StatusQueued, s.get(t, r.RunID).Status)
}

func TestReleaseClaimsGivesBackWhatIsStillQueued(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	pending := s.run(t, state.StatusPending)
	s.force(t, pending.RunID, `claimed_by = 'w'`)
	other := s.run(t, state.StatusQueued)
	s.force(t, other.RunID, `claimed_by = 'w2', claimed_until = now() + INTERVAL '1 hour'`)
	mine := s.run(t, state.StatusQueued)
	s.claim(t, mine.RunID)
	require.NoError(t, s.ReleaseClaims(t.Context(), "w"))
	assert.Nil(t, s.get(t, mine.RunID).ClaimedBy)
	assert.Equal(t, new("w"), s.get(t, pending.RunID).ClaimedBy)
	assert.Equal(t, new("w2"), s.get(t, other.RunID).ClaimedBy)
	s.claim(t, mine.RunID)
}

func TestADeferredRunWaitsWithAReason(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(t, state.StatusQueued)
	s.claim(t, r.RunID)
	next := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
	require.NoError(t, s.DeferRun(t.Context(), r.RunID, "w", "quota is used up", next))

	after := s.get(t, r.RunID)
	assert.Equal(t, new("quota is used up"), after.StatusReason)
	assert.Equal(t, next, after.NextAttemptAt.UTC())
	assert.Nil(t, after.ClaimedBy)
	got, err := s.ClaimRuns(t.Context(), state.ClaimRequest{EngineKey: testKey, Worker: "w", Lease: time.Minute, Limit: 1})
	require.NoError(t, err)
	assert.Empty(t, got)

	s.force(t, r.RunID, `next_attempt_at = now()`)
	s.claim(t, r.RunID)
	accepted, err := s.AcceptRun(t.Context(), r.RunID, "w", state.Acceptance{Size: state.Size{Memory: 1}})
	require.NoError(t, err)
	require.True(t, accepted)
	assert.Nil(t, s.get(t, r.RunID).StatusReason)
}

func TestAcceptRunRecordsWhatTheClusterGave(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(t, state.StatusQueued, func(r *state.Run) { r.Memory, r.RequestedMemory = new(int64(512)), new(int64(512)) })
	s.claim(t, r.RunID)
	accepted, err := s.AcceptRun(t.Context(), r.RunID, "w", state.Acceptance{
		Size: state.Size{Memory: 896, CPU: 500}, Limit: state.Size{Memory: 896, CPU: 500}, PodName: new("pod"), Namespace: new("ns"), ContainerName: new("c"),
	})
	require.NoError(t, err)
	require.True(t, accepted)
	after := s.get(t, r.RunID)
	assert.Equal(t, state.StatusPending, after.Status)
	assert.Equal(t, []int64{896, 896, 500, 500}, []int64{*after.Memory, *after.MemoryLimit, *after.CPU, *after.CPULimit})
	assert.Equal(t, new(int64(512)), after.RequestedMemory)
	assert.Equal(t, new(int64(1)), after.AttemptCount)
	assert.Equal(t, []string{"pod", "ns", "c"}, []string{*after.PodName, *after.Namespace, *after.ContainerName})
	assert.Nil(t, after.ClaimedBy)
	assert.Nil(t, after.ClaimedUntil)

	again, err := s.AcceptRun(t.Context(), r.RunID, "w", state.Acceptance{})
	require.NoError(t, err)
	assert.False(t, again, "the claim is over")
}

func TestAnAcceptanceThatComesAfterTheFollowerRecordsTheSizes(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, seen := range []state.Status{state.StatusPending, state.StatusRunning, state.StatusStopped} {
		r := s.run(t, state.StatusQueued)
		s.claim(t, r.RunID)
		moved, err := s.MoveRun(t.Context(), r.RunID, 1, seen, state.RunUpdate{ExitCode: new(int64(137))})
		require.NoError(t, err)
		require.True(t, moved)

		accepted, err := s.AcceptRun(t.Context(), r.RunID, "w", state.Acceptance{Size: state.Size{Memory: 896, CPU: 250}})
		require.NoError(t, err)
		assert.True(t, accepted, seen)
		after := s.get(t, r.RunID)
		assert.Equal(t, seen, after.Status)
		assert.Equal(t, new(int64(896)), after.Memory)
	}
}

func TestAnAcceptanceOfAStoppedRunIsRefused(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(t, state.StatusQueued)
	s.claim(t, r.RunID)
	_, _, err := s.StopRun(t.Context(), r.RunID, "x")
	require.NoError(t, err)
	accepted, err := s.AcceptRun(t.Context(), r.RunID, "w", state.Acceptance{Size: state.Size{Memory: 896}})
	require.NoError(t, err)
	assert.False(t, accepted)
	assert.Nil(t, s.get(t, r.RunID).Memory)
}

func TestRejectRun(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(t, state.StatusQueued)
	s.claim(t, r.RunID)
	did, err := s.RejectRun(t.Context(), r.RunID, "w", "no such image")
	require.NoError(t, err)
	assert.True(t, did)
	after := s.get(t, r.RunID)
	assert.Equal(t, state.StatusStopped, after.Status)
	assert.Equal(t, new(state.ExitCodeNeverStarted), after.ExitCode)
	assert.Equal(t, new("no such image"), after.ExitReason)
	assert.NotNil(t, after.FinishedAt)
}

func TestExplainQueued(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	waiting := s.run(t, state.StatusQueued)
	claimed := s.run(t, state.StatusQueued)
	s.force(t, claimed.RunID, `claimed_until = now() + INTERVAL '1 minute'`)
	pending := s.run(t, state.StatusPending)
	n, err := s.ExplainQueued(t.Context(), testKey, "the cluster is offline", 10)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	assert.Equal(t, new("the cluster is offline"), s.get(t, waiting.RunID).StatusReason)
	assert.Nil(t, s.get(t, claimed.RunID).StatusReason)
	assert.Nil(t, s.get(t, pending.RunID).StatusReason)
	n, err = s.ExplainQueued(t.Context(), testKey, "the cluster is offline", 10)
	require.NoError(t, err)
	assert.Zero(t, n, "nothing to say that was not said")
}

func TestARetryWaitsAndClearsTheFailedAttempt(t *testing.T) {
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
