package worker

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

// fakeStore returns its fields and keeps the calls that matter as short lines.
type fakeStore struct {
	mu       sync.Mutex
	calls    []string
	changed  chan struct{} // closed and replaced at each call
	queued   []state.Run
	counts   map[state.WorkerType]int64
	refuse   bool // AcceptRun returns false
	unmoved  bool // MoveRun returns false
	run      state.Run
	missing  bool // GetExecutable finds nothing
	overdue  []state.Run
	retries  []state.Run
	orphans  int
	active   []state.Run
	locks    map[string]bool
	lost     []state.Run
	depths   []state.QueueDepth
	expired  int
	deferred map[string]time.Time
	failing  error // of every call
}

var _ Store = (*fakeStore)(nil)

func newFakeStore() *fakeStore {
	return &fakeStore{
		changed: make(chan struct{}), deferred: map[string]time.Time{},
		counts: map[state.WorkerType]int64{state.WorkerSubmit: 1, state.WorkerStatus: 1, state.WorkerRetry: 1},
	}
}

// note keeps a call; the lock is held.
func (s *fakeStore) note(call string) {
	s.calls = append(s.calls, call)
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *fakeStore) noted(call string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.calls {
		if c == call {
			n++
		}
	}
	return n
}

// await waits until a call was made n times.
func (s *fakeStore) await(t *testing.T, call string, n int) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		if s.noted(call) >= n {
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			require.FailNow(t, "call not made", "%s; made were %v", call, s.calls)
		}
	}
}

func (s *fakeStore) with(change func(s *fakeStore)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *fakeStore) ListWorkers(context.Context, string) ([]state.Worker, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rows []state.Worker
	for kind, n := range s.counts {
		rows = append(rows, state.Worker{WorkerType: kind, CountPerInstance: n})
	}
	return rows, s.failing
}

func (s *fakeStore) ClaimRuns(_ context.Context, r state.ClaimRequest) ([]state.Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("claim " + r.Cluster)
	var claimed, left []state.Run
	for _, run := range s.queued {
		if run.ClusterName == r.Cluster && len(claimed) < r.Limit {
			claimed = append(claimed, run)
		} else {
			left = append(left, run)
		}
	}
	s.queued = left
	return claimed, s.failing
}

func (s *fakeStore) RenewClaims(_ context.Context, _ string, ids []string, _ time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		s.note("renew " + id)
	}
	return s.failing
}

func (s *fakeStore) ReleaseClaims(_ context.Context, worker string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("release " + worker)
	return s.failing
}

func (s *fakeStore) DeferRun(_ context.Context, id, _, reason string, next time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deferred[id] = next
	s.note("defer " + id + ": " + reason)
	return s.failing
}

func (s *fakeStore) AcceptRun(_ context.Context, id, _ string, _ state.Acceptance) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("accept " + id)
	return !s.refuse, s.failing
}

func (s *fakeStore) RejectRun(_ context.Context, id, _, reason string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("reject " + id + ": " + reason)
	return true, s.failing
}

func (s *fakeStore) GetExecutable(_ context.Context, _ state.ExecutableType, id string) (state.Executable, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.missing {
		return nil, state.Missingf("no %s", id)
	}
	return state.Definition{DefinitionID: id}, s.failing
}

func (s *fakeStore) MoveRun(_ context.Context, id string, _ int64, to state.Status, u state.RunUpdate) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	call := "move " + id + " " + string(to)
	if u.ExitReason != nil {
		call += ": " + *u.ExitReason
	}
	s.note(call)
	return !s.unmoved, s.failing
}

func (s *fakeStore) AnnotateRun(_ context.Context, id string, _ int64, _ state.RunUpdate) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("annotate " + id)
	return true, s.failing
}

func (s *fakeStore) GetRun(context.Context, string) (state.Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.run, s.failing
}

func (s *fakeStore) ActiveRuns(_ context.Context, key state.EngineKey, _, _ string, _ int) ([]state.Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("active of " + key.Cluster)
	return s.active, s.failing
}

func (s *fakeStore) LockHeld(_ context.Context, name string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.locks[name], s.failing
}

func (s *fakeStore) OverdueRuns(context.Context, []string, time.Duration, int) ([]state.Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	runs := s.overdue
	s.overdue = nil
	return runs, s.failing
}

func (s *fakeStore) RequeueOrphans(context.Context, time.Duration) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.orphans
	s.orphans = 0
	return n, s.failing
}

func (s *fakeStore) StopLost(_ context.Context, key state.EngineKey, _ time.Duration, _ int) ([]state.Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("lost of " + key.Cluster)
	runs := s.lost
	s.lost = nil
	return runs, s.failing
}

func (s *fakeStore) RequeueRetries(context.Context, state.RetryPolicy) (requeued, stopped []state.Run, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("retries")
	requeued, s.retries = s.retries, nil
	return requeued, nil, s.failing
}

func (s *fakeStore) QueueDepths(context.Context) ([]state.QueueDepth, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.depths, s.failing
}

func (s *fakeStore) ExplainQueued(_ context.Context, key state.EngineKey, reason string, _ int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("explain " + key.Cluster + ": " + reason)
	return 1, s.failing
}

func (s *fakeStore) DeleteOldRuns(_ context.Context, before time.Time, limit int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("delete before " + before.Format(time.DateOnly))
	n := min(limit, s.expired)
	s.expired -= n
	return n, s.failing
}

func (s *fakeStore) DeleteOrphanRuns(context.Context, int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("delete runs of deleted definitions")
	return 0, s.failing
}
