package state_test

import (
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
			page, err := s.ActiveRuns(t.Context(), testCluster, node, after, 3)
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

func TestStoppedAmongAnswersWhatHasEndedOrIsGone(t *testing.T) {
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

	got, err := s.OverdueRuns(t.Context(), time.Minute, 10)
	require.NoError(t, err)
	assert.Equal(t, []string{retried.RunID, late.RunID}, ids(got))
	got, err = s.OverdueRuns(t.Context(), time.Minute, 1)
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
		{Cluster: testCluster, Queued: 2, Active: 2}, {Cluster: "other", Active: 1},
	}, depths)
}
