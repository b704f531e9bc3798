package state_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

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

// silence makes a node known, and unheard of for a time.
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
