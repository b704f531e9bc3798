package state_test

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

// mover is one of the methods that move runs, with the statuses from which it may move one.
type mover struct {
	to   state.Status
	only []state.Status
	move func(t *testing.T, s store, r state.Run) bool
}

func (m mover) allowed(from state.Status) bool {
	if !from.MayBecome(m.to) {
		return false
	}
	for _, only := range m.only {
		if only == from {
			return true
		}
	}
	return len(m.only) == 0
}

func movers() map[string]mover {
	ways := map[string]mover{
		"AcceptRun": {to: state.StatusPending, move: func(t *testing.T, s store, r state.Run) bool {
			// If the follower was faster, an acceptance is recorded without a move.
			before := s.get(t, r.RunID).Status
			ok, err := s.AcceptRun(t.Context(), r.RunID, "w", state.Acceptance{Size: state.Size{Memory: 1}})
			require.NoError(t, err)
			return ok && s.get(t, r.RunID).Status != before
		}},
		"ReturnRun": {to: state.StatusQueued, only: []state.Status{state.StatusPending},
			move: func(t *testing.T, s store, r state.Run) bool {
				ok, err := s.ReturnRun(t.Context(), r.RunID, "w")
				require.NoError(t, err)
				return ok
			}},
		"StopRun": {to: state.StatusStopped, move: func(t *testing.T, s store, r state.Run) bool {
			_, ok, err := s.StopRun(t.Context(), r.RunID, "because")
			require.NoError(t, err)
			return ok
		}},
		"RejectRun": {to: state.StatusStopped, only: []state.Status{state.StatusQueued},
			move: func(t *testing.T, s store, r state.Run) bool {
				ok, err := s.RejectRun(t.Context(), r.RunID, "w", "because")
				require.NoError(t, err)
				return ok
			}},
		"RequeueRetries": {to: state.StatusQueued, only: []state.Status{state.StatusNeedsRetry},
			move: func(t *testing.T, s store, r state.Run) bool {
				again, _, err := s.RequeueRetries(t.Context(), state.RetryPolicy{MaxAttempts: 3, Limit: 9, Engines: testEngines})
				require.NoError(t, err)
				return len(again) == 1
			}},
		"RequeueRetries of the last attempt": {to: state.StatusStopped, only: []state.Status{state.StatusNeedsRetry},
			move: func(t *testing.T, s store, r state.Run) bool {
				_, stopped, err := s.RequeueRetries(t.Context(), state.RetryPolicy{MaxAttempts: 1, Limit: 9, Engines: testEngines})
				require.NoError(t, err)
				return len(stopped) == 1
			}},
		"RequeueOrphans": {to: state.StatusQueued, only: []state.Status{state.StatusPending},
			move: func(t *testing.T, s store, r state.Run) bool {
				n, err := s.RequeueOrphans(t.Context(), time.Minute)
				require.NoError(t, err)
				return n == 1
			}},
		"StopLost": {to: state.StatusStopped, only: []state.Status{state.StatusPending, state.StatusRunning},
			move: func(t *testing.T, s store, r state.Run) bool {
				lost, err := s.StopLost(t.Context(), testKey, time.Minute, 9)
				require.NoError(t, err)
				return len(lost) == 1
			}},
	}
	for _, to := range state.Statuses {
		ways["MoveRun to "+string(to)] = mover{to: to, move: func(t *testing.T, s store, r state.Run) bool {
			ok, err := s.MoveRun(t.Context(), r.RunID, 1, to, state.RunUpdate{})
			require.NoError(t, err)
			return ok
		}}
		if to == state.StatusQueued {
			continue // a run cannot put itself in the queue, see TestASelfReportMovesARunOnlyForward
		}
		ways["SelfReportRun of "+string(to)] = mover{to: to, move: func(t *testing.T, s store, r state.Run) bool {
			before := s.get(t, r.RunID).Status
			after, _, err := s.SelfReportRun(t.Context(), r.RunID, state.SelfReport{Status: to})
			require.NoError(t, err)
			return after.Status != before
		}}
	}
	return ways
}

func TestEveryMethodMovesRunsOnlyAlongLegalMoves(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.exec(t, `INSERT INTO flotilla_node VALUES ('w', 'host', now() - INTERVAL '1 hour')`)
	for name, way := range movers() {
		for _, from := range state.Statuses {
			r := s.run(t, from)
			s.force(t, r.RunID, `claimed_by = 'w', exit_code = 7, attempt_count = 1`)

			moved := way.move(t, s, r)

			after := s.get(t, r.RunID)
			if way.allowed(from) {
				assert.True(t, moved, "%s must leave %s", name, from)
				assert.Equal(t, way.to, after.Status, "%s from %s", name, from)
			} else {
				assert.False(t, moved, "%s must not leave %s", name, from)
				assert.Equal(t, from, after.Status, "%s from %s", name, from)
				assert.Equal(t, new(int64(7)), after.ExitCode, "%s must not touch the exit code in %s", name, from)
			}
			s.exec(t, `DELETE FROM task`)
		}
	}
}

func TestMoveRunRecordsWhatTheEngineObserved(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	start := time.Now().Add(-time.Minute).UTC().Truncate(time.Microsecond)
	end := start.Add(30 * time.Second)
	r := s.run(t, state.StatusPending)
	s.force(t, r.RunID, `status_reason = 'waits for capacity'`)

	moved, err := s.MoveRun(t.Context(), r.RunID, 1, state.StatusRunning, state.RunUpdate{
		StartedAt: &start, InstanceID: new("i-1"), InstanceDNS: new("node-1"), PodName: new("pod-1"),
		ExitCode: new(int64(3)), MaxMemoryUsed: new(int64(100)),
		PodEvents: state.PodEvents{{Reason: "Started"}},
	})
	require.NoError(t, err)
	require.True(t, moved)
	running := s.get(t, r.RunID)
	assert.Equal(t, start, running.StartedAt.UTC())
	assert.Nil(t, running.StatusReason)
	assert.Nil(t, running.ExitCode, "only a stop has an exit code")
	assert.Nil(t, running.FinishedAt)
	assert.Equal(t, []string{"i-1", "node-1", "pod-1"}, []string{running.InstanceID, running.InstanceDNS, *running.PodName})
	assert.Equal(t, new(int64(1)), running.AttemptCount)

	moved, err = s.MoveRun(t.Context(), r.RunID, 1, state.StatusStopped, state.RunUpdate{
		StartedAt: new(start.Add(time.Second)), FinishedAt: &end, ExitCode: new(int64(137)),
		ExitReason: new(state.ReasonOOMKilled), MaxMemoryUsed: new(int64(50)),
	})
	require.NoError(t, err)
	require.True(t, moved)
	stopped := s.get(t, r.RunID)
	assert.Equal(t, start, stopped.StartedAt.UTC(), "the first start counts")
	assert.Equal(t, end, stopped.FinishedAt.UTC())
	assert.Equal(t, new(int64(137)), stopped.ExitCode)
	assert.Equal(t, new(state.ReasonOOMKilled), stopped.ExitReason)
	assert.Equal(t, new(int64(100)), stopped.MaxMemoryUsed, "the maximum stays")
	assert.Len(t, stopped.PodEvents, 1)
}

func TestMoveRunToStoppedSetsFinishedAtIfTheEngineDoesNotKnowIt(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(t, state.StatusRunning)
	_, err := s.MoveRun(t.Context(), r.RunID, 1, state.StatusStopped, state.RunUpdate{})
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now(), *s.get(t, r.RunID).FinishedAt, time.Minute)
}

func TestObservationsOfAnEarlierAttemptChangeNothing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(t, state.StatusPending)
	s.force(t, r.RunID, `attempt_count = 2`)

	moved, err := s.MoveRun(t.Context(), r.RunID, 1, state.StatusStopped, state.RunUpdate{ExitCode: new(int64(1))})
	require.NoError(t, err)
	assert.False(t, moved)
	noted, err := s.AnnotateRun(t.Context(), r.RunID, 1, state.RunUpdate{PodName: new("old")})
	require.NoError(t, err)
	assert.False(t, noted)
	moved, err = s.MoveRun(t.Context(), r.RunID, 2, state.StatusRunning, state.RunUpdate{})
	require.NoError(t, err)
	assert.True(t, moved)
}

func TestAnnotateRunAddsDetailsAndNeverRewritesAnEnd(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(t, state.StatusStopped)
	s.force(t, r.RunID, `exit_code = 1`)
	note := state.RunUpdate{ExitCode: new(int64(0)), ExitReason: new("first"), StatusReason: new("waits"), PodName: new("pod")}

	ok, err := s.AnnotateRun(t.Context(), r.RunID, 1, note)
	require.NoError(t, err)
	require.True(t, ok)
	note.ExitReason = new("second")
	_, err = s.AnnotateRun(t.Context(), r.RunID, 1, note)
	require.NoError(t, err)

	after := s.get(t, r.RunID)
	assert.Equal(t, state.StatusStopped, after.Status)
	assert.Equal(t, new(int64(1)), after.ExitCode)
	assert.Equal(t, new("first"), after.ExitReason)
	assert.Nil(t, after.StatusReason, "a stopped run waits for nothing")
	assert.Equal(t, new("pod"), after.PodName)

	waiting := s.run(t, state.StatusPending)
	_, err = s.AnnotateRun(t.Context(), waiting.RunID, 1, state.RunUpdate{StatusReason: new("waits")})
	require.NoError(t, err)
	assert.Equal(t, new("waits"), s.get(t, waiting.RunID).StatusReason)
}

func TestStopRun(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := s.run(t, state.StatusRunning)

	stopped, did, err := s.StopRun(t.Context(), r.RunID, state.ReasonTerminated)
	require.NoError(t, err)
	assert.True(t, did)
	assert.Equal(t, state.StatusStopped, stopped.Status)
	assert.Equal(t, new(state.ExitCodeNeverStarted), stopped.ExitCode)
	assert.Equal(t, new(state.ReasonTerminated), stopped.ExitReason)
	assert.NotNil(t, stopped.FinishedAt)

	again, did, err := s.StopRun(t.Context(), r.RunID, "another reason")
	require.NoError(t, err)
	assert.False(t, did)
	assert.Equal(t, stopped, again)

	_, _, err = s.StopRun(t.Context(), "no-such-run", "x")
	assert.ErrorAs(t, err, new(state.MissingResource))
}

func TestListChildRunsFindsRunsByTheirEnvironment(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	parent := s.run(t, state.StatusRunning)
	asChild := func(r *state.Run) { r.Env = append(r.Env, state.EnvVar{Name: state.ParentRunEnv, Value: parent.RunID}) }
	first, second := s.run(t, state.StatusRunning, asChild), s.run(t, state.StatusStopped, asChild)
	s.run(t, state.StatusRunning, func(r *state.Run) {
		r.Env = state.EnvList{{Name: "OTHER", Value: parent.RunID}, {Name: state.ParentRunEnv, Value: "other"}}
	})
	children, err := s.ListChildRuns(t.Context(), parent.RunID)
	require.NoError(t, err)
	assert.Equal(t, []string{first.RunID, second.RunID}, children)
}

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
	assert.False(t, accepted, "the cluster must not keep the run")
}

func TestAuditStatusIsTheSameLineForEveryAuthor(t *testing.T) {
	t.Parallel()
	run := state.Run{
		RunID: "eks-1", DefinitionID: "d", Alias: "a", ClusterName: "c", Engine: state.EKSEngine, User: "ada",
		AttemptCount: new(int64(2)),
	}
	line := func(by state.Auditor, u state.RunUpdate) string {
		var out bytes.Buffer
		slog.New(slog.NewJSONHandler(&out, nil)).Info("audit", state.AuditStatus(by, run, state.StatusStopped, u)...)
		return out.String()
	}
	const of = `"owner":"ada","run_id":"eks-1","definition_id":"d","alias":"a","cluster":"c","engine":"eks","status":"STOPPED","attempt":2`
	ended := state.RunUpdate{ExitCode: new(int64(1)), ExitReason: new("why")}
	assert.Contains(t, line(state.Program, ended),
		`"msg":"audit","event":"FlotillaTaskStatus","who":"flotilla","token":"","email":"",`+of+`,"exit_code":1,"exit_reason":"why"}`)
	assert.Contains(t, line(state.Auditor{Who: "bo@example.com", Token: "ci", Email: "bo@example.com"}, ended),
		`"who":"bo@example.com","token":"ci","email":"bo@example.com",`+of+`,"exit_code":1,"exit_reason":"why"}`)
	assert.Contains(t, line(state.Program, state.RunUpdate{}), of+"}")
}
