package state_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

func TestActiveRunsArePagedById(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var want, ofNode []string
	for i := range 7 {
		node := "n1"
		if i%2 == 0 {
			node = "n2"
		}
		r := s.local(t, []state.Status{state.StatusPending, state.StatusRunning}[i%2], node, true)
		want = append(want, r.RunID)
		if node == "n1" {
			ofNode = append(ofNode, r.RunID)
		}
	}
	for _, other := range []state.Status{state.StatusQueued, state.StatusNeedsRetry, state.StatusStopped} {
		s.run(t, other)
	}
	elsewhere := s.run(t, state.StatusRunning)
	s.force(t, elsewhere.RunID, `cluster_name = 'other'`)

	for node, want := range map[string][]string{"": want, "n1": ofNode, "n3": {}} {
		got, after := []string{}, ""
		for {
			page, err := s.ActiveRuns(t.Context(), testKey, node, after, 3)
			require.NoError(t, err)
			if len(page) == 0 {
				break
			}
			got = append(got, ids(page)...)
			after = got[len(got)-1]
		}
		assert.Equal(t, want, got, "node %q", node)
	}
}

func TestStoppedAmongReturnsRunsThatEndedOrAreGone(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	running, stopped := s.run(t, state.StatusRunning), s.run(t, state.StatusStopped)
	got, err := s.StoppedAmong(t.Context(), []string{stopped.RunID, running.RunID, "gone"})
	require.NoError(t, err)
	assert.Equal(t, []string{stopped.RunID, "gone"}, got)
	got, err = s.StoppedAmong(t.Context(), nil)
	require.NoError(t, err)
	assert.Empty(t, got)
}

func TestOverdueRunsAreThosePastTheirDeadlineAndGrace(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	started := func(status state.Status, ago time.Duration) state.Run {
		r := s.run(t, status)
		s.force(t, r.RunID, `active_deadline_seconds = 100, started_at = now() - make_interval(secs => $2)`, ago.Seconds())
		return r
	}
	late := started(state.StatusRunning, 170*time.Second)
	retried := started(state.StatusPending, 200*time.Second)
	started(state.StatusRunning, 150*time.Second)
	started(state.StatusStopped, 200*time.Second)
	noDeadline := started(state.StatusRunning, 200*time.Second)
	s.force(t, noDeadline.RunID, `active_deadline_seconds = NULL`)
	s.run(t, state.StatusPending)

	got, err := s.OverdueRuns(t.Context(), testEngines, time.Minute, 10)
	require.NoError(t, err)
	assert.Equal(t, []string{retried.RunID, late.RunID}, ids(got))
	got, err = s.OverdueRuns(t.Context(), testEngines, time.Minute, 1)
	require.NoError(t, err)
	assert.Len(t, got, 1)
}

func TestQueueDepths(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	depths, err := s.QueueDepths(t.Context())
	require.NoError(t, err)
	assert.Empty(t, depths)

	s.run(t, state.StatusQueued, func(r *state.Run) { r.QueuedAt = new(time.Now().Add(-time.Minute)) })
	s.run(t, state.StatusQueued)
	s.run(t, state.StatusPending)
	s.run(t, state.StatusRunning)
	s.run(t, state.StatusStopped)
	s.run(t, state.StatusRunning, func(r *state.Run) { r.ClusterName = "other" })
	depths, err = s.QueueDepths(t.Context())
	require.NoError(t, err)
	require.Len(t, depths, 2)
	assert.InDelta(t, 60, depths[0].OldestAge, 30)
	depths[0].OldestAge = 0
	assert.Equal(t, []state.QueueDepth{
		{EngineKey: testKey, Queued: 2, Active: 2}, {EngineKey: state.EngineKey{Cluster: "other", Engine: state.EKSEngine}, Active: 1},
	}, depths)
}

// Spark runs of the old program share clusters with container jobs. Until this program executes them, nothing that is
// done for container jobs may touch them.
func TestRunsOfAnotherEngineAreLeftAlone(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	spark := func(status state.Status, set string) state.Run {
		r := s.run(t, status)
		s.force(t, r.RunID, `engine = 'eks-spark', command = 'spark-submit', command_hash = 'of the description'`+set)
		return s.get(t, r.RunID)
	}
	s.silence(t, "n1", time.Hour)
	runs := []state.Run{
		spark(state.StatusQueued, ""), spark(state.StatusNeedsRetry, ""),
		spark(state.StatusPending, `, claimed_by = 'n1', instance_id = 'i'`),
		spark(state.StatusRunning, `, claimed_by = 'n1', active_deadline_seconds = 1, started_at = now() - INTERVAL '1 day'`),
	}
	claimed, err := s.ClaimRuns(t.Context(), state.ClaimRequest{EngineKey: testKey, Worker: "w", Lease: time.Minute, Limit: 9})
	require.NoError(t, err)
	explained, err := s.ExplainQueued(t.Context(), testKey, "why", 9)
	require.NoError(t, err)
	active, err := s.ActiveRuns(t.Context(), testKey, "", "", 9)
	require.NoError(t, err)
	overdue, err := s.OverdueRuns(t.Context(), testEngines, 0, 9)
	require.NoError(t, err)
	lost, err := s.StopLost(t.Context(), testKey, time.Minute, 9)
	require.NoError(t, err)
	again, stopped, err := s.RequeueRetries(t.Context(), state.RetryPolicy{MaxAttempts: 1, Limit: 9, Engines: testEngines})
	require.NoError(t, err)
	_, err = s.AdoptQueued(t.Context(), time.Hour)
	require.NoError(t, err)
	assert.Empty(t, slices.Concat(claimed, active, overdue, lost, again, stopped))
	assert.Zero(t, explained)
	for _, before := range runs {
		assert.Equal(t, before, s.get(t, before.RunID))
	}

	key := state.EngineKey{Cluster: testCluster, Engine: state.EKSSparkEngine}
	active, err = s.ActiveRuns(t.Context(), key, "", "", 9)
	require.NoError(t, err)
	assert.Len(t, active, 2)
	explained, err = s.ExplainQueued(t.Context(), key, "why", 9)
	require.NoError(t, err)
	assert.Equal(t, 1, explained)
	depths, err := s.QueueDepths(t.Context())
	require.NoError(t, err)
	require.Len(t, depths, 1)
	depths[0].OldestAge = 0
	assert.Equal(t, state.QueueDepth{EngineKey: key, Queued: 1, Active: 2}, depths[0])
}

// local stores a run that a node owns.
func (s store) local(t testing.TB, status state.Status, node string, started bool) state.Run {
	t.Helper()
	r := s.run(t, status)
	instance := ""
	if started {
		instance = node
	}
	s.force(t, r.RunID, `claimed_by = $2, instance_id = $3`, node, instance)
	return s.get(t, r.RunID)
}

// silence makes a node known, with its last heartbeat d ago.
func (s store) silence(t testing.TB, node string, d time.Duration) {
	t.Helper()
	require.NoError(t, s.Heartbeat(t.Context(), node, "host"))
	s.exec(t, `UPDATE flotilla_node SET seen_at = now() - make_interval(secs => $2) WHERE node = $1`, node, d.Seconds())
}

func TestAnAcceptedLocalRunBelongsToItsNode(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(t, state.StatusQueued)
	s.claim(t, r.RunID)
	_, err := s.AcceptRun(t.Context(), r.RunID, "w", state.Acceptance{Node: "n1"})
	require.NoError(t, err)
	assert.Equal(t, new("n1"), s.get(t, r.RunID).ClaimedBy)

	for _, step := range []struct {
		node string
		want bool
		why  string
	}{
		{"n2", false, "it belongs to another node"},
		{"n1", true, "it is the node's and was not started"},
		{"n1", false, "it was committed before"},
	} {
		ok, err := s.CommitStart(t.Context(), r.RunID, step.node)
		require.NoError(t, err)
		assert.Equal(t, step.want, ok, step.why)
	}
	assert.Equal(t, "n1", s.get(t, r.RunID).InstanceID)
}

func TestARunWhoseStartIsPartOfItsAcceptanceIsNotStartedTwice(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(t, state.StatusQueued)
	s.claim(t, r.RunID)
	_, err := s.AcceptRun(t.Context(), r.RunID, "w", state.Acceptance{Node: "n1", InstanceID: "n1"})
	require.NoError(t, err)
	ok, err := s.CommitStart(t.Context(), r.RunID, "n1")
	require.NoError(t, err)
	assert.False(t, ok)
}

func TestAStoppedRunIsNotStarted(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.local(t, state.StatusPending, "n1", false)
	_, _, err := s.StopRun(t.Context(), r.RunID, "x")
	require.NoError(t, err)
	ok, err := s.CommitStart(t.Context(), r.RunID, "n1")
	require.NoError(t, err)
	assert.False(t, ok)
	assert.Equal(t, new("n1"), s.get(t, r.RunID).ClaimedBy, "its log is there")
}

func TestAReturnedRunCanBeClaimedAtOnce(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.local(t, state.StatusPending, "n1", true)
	ok, err := s.ReturnRun(t.Context(), r.RunID, "n2")
	require.NoError(t, err)
	require.False(t, ok)
	ok, err = s.ReturnRun(t.Context(), r.RunID, "n1")
	require.NoError(t, err)
	require.True(t, ok)
	again := s.claim(t, r.RunID)
	assert.Empty(t, again.InstanceID)
	assert.Equal(t, int64(1), again.Attempt())
}

func TestOrphansAreTheUnstartedRunsOfSilentNodes(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.silence(t, "dead", time.Minute)
	s.silence(t, "alive", 0)
	orphan := s.local(t, state.StatusPending, "dead", false)
	keep := map[string]state.Run{
		"started":                 s.local(t, state.StatusPending, "dead", true),
		"running":                 s.local(t, state.StatusRunning, "dead", true),
		"of a living node":        s.local(t, state.StatusPending, "alive", false),
		"of a worker, not node":   s.local(t, state.StatusPending, "some-worker", false),
		"of a Kubernetes cluster": s.run(t, state.StatusPending),
	}
	n, err := s.RequeueOrphans(t.Context(), 30*time.Second)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	for name, r := range keep {
		assert.Equal(t, r, s.get(t, r.RunID), name)
	}
	s.claim(t, orphan.RunID)
	ok, err := s.CommitStart(t.Context(), orphan.RunID, "dead")
	require.NoError(t, err)
	assert.False(t, ok, "the node that was dead does not own it any more")
}

func TestLostRunsAreThoseOfNodesThatStaySilent(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.silence(t, "gone", time.Hour)
	s.silence(t, "away", time.Minute)
	first, second := s.local(t, state.StatusPending, "gone", true), s.local(t, state.StatusRunning, "gone", true)
	kept := s.local(t, state.StatusRunning, "away", true)
	elsewhere := s.local(t, state.StatusRunning, "gone", true)
	s.force(t, elsewhere.RunID, `cluster_name = 'other'`)

	var lost []string
	for range 3 {
		runs, err := s.StopLost(t.Context(), testKey, 30*time.Minute, 1)
		require.NoError(t, err)
		lost = append(lost, ids(runs)...)
	}
	assert.Equal(t, []string{first.RunID, second.RunID}, lost)
	r := s.get(t, second.RunID)
	assert.Equal(t, state.StatusStopped, r.Status)
	assert.Nil(t, r.ExitCode)
	assert.Equal(t, new(state.ReasonLost), r.ExitReason)
	assert.NotNil(t, r.FinishedAt)
	assert.Equal(t, state.StatusRunning, s.get(t, kept.RunID).Status)
	assert.Equal(t, state.StatusRunning, s.get(t, elsewhere.RunID).Status)
}
