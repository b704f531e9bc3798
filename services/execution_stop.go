package services

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// Stop ends a run and the runs that it spawned, however deep. Each is STOPPED when Stop returns; their containers may go
// on for their grace period. by is the email of the caller, empty if unknown. Stopping a run that has stopped is no
// error; state.MissingResource if there is no such run.
func (s *ExecutionService) Stop(ctx context.Context, runID, by string) error {
	reason := state.ReasonTerminated
	if by != "" {
		reason = "Task terminated by - " + by
	}
	var f faults
	f.text("the email of the request header", by, maxName)
	if err := f.err(); err != nil {
		return err
	}
	if err := s.stopOne(ctx, runID, reason); err != nil {
		return err
	}
	// The descendants are stopped breadth first, each once: a run's env is the client's, so runs may name each other as
	// parents in a circle.
	seen := map[string]bool{runID: true}
	parents := []string{runID}
	var failed []error
	for len(parents) > 0 {
		children, err := s.c.Store.ListChildRuns(ctx, parents[0])
		parents = parents[1:]
		if err != nil {
			return errors.Join(append(failed, err)...)
		}
		for _, id := range children {
			if seen[id] {
				continue
			}
			seen[id] = true
			parents = append(parents, id)
			// A child that was deleted meanwhile has stopped, too.
			if err := s.stopOne(ctx, id, reason); err != nil && !errors.As(err, new(state.MissingResource)) {
				failed = append(failed, fmt.Errorf("cannot stop child run %s: %w", id, err))
			}
		}
	}
	return errors.Join(failed...)
}

func (s *ExecutionService) stopOne(ctx context.Context, runID, reason string) error {
	run, stopped, err := s.c.Store.StopRun(ctx, runID, reason)
	if err == nil && stopped {
		fault.Point(fault.StopCommitted)
		s.endStopped(ctx, run)
	}
	return err
}

// endStopped audits, counts and ends a run that this server has just moved to STOPPED.
func (s *ExecutionService) endStopped(ctx context.Context, run state.Run) {
	s.auditStatus(ctx, run)
	m := metrics.EngineEKSTerminate
	if run.Engine == state.EKSSparkEngine {
		m = metrics.EngineEMRTerminate
	}
	s.count(m, run, metrics.StatusSuccess)
	s.endings.end(run)
}

// auditStatus writes the audit line of the run's change to the status that it has now.
func (s *ExecutionService) auditStatus(ctx context.Context, run state.Run) {
	s.log.InfoContext(ctx, "audit", state.AuditStatus(auditor(ctx, run.User), run, run.Status,
		state.RunUpdate{ExitCode: run.ExitCode, ExitReason: run.ExitReason})...)
}

// Report applies a status that a run reports of itself (rest-api.md, "Self-reported status"). Errors:
// state.MalformedInput for an unknown status, state.MissingResource. A move that the life of a run does not allow
// changes nothing and is no error.
func (s *ExecutionService) Report(ctx context.Context, runID string, r state.SelfReport) error {
	var f faults
	if !r.Status.Valid() {
		f.addf("status must be one of %s, not %q", listed(state.Statuses), r.Status)
	}
	f.number("exit_code", r.ExitCode, minInt32, maxInt32)
	if err := f.err(); err != nil {
		return err
	}
	r.ExitReason = present(r.ExitReason)
	if r.ExitReason == nil && len(r.RunExceptions) > 0 {
		r.ExitReason = new(reasonOf(r.RunExceptions))
	}
	run, moved, err := s.c.Store.SelfReportRun(ctx, runID, r)
	switch {
	case err != nil:
		return err
	case moved && run.Status.Final():
		s.endStopped(ctx, run)
	case moved:
		s.auditStatus(ctx, run)
	}
	return nil
}

// reasonRules name what went wrong if an exception contains one of the marks, regardless of case. They are tried in
// this order (rest-api.md, "Self-reported status"); the marks are in lower case.
var reasonRules = []struct {
	reason string
	marks  []string
}{
	{"Connection error to downstream uri", []string{
		"timeout", "gatewayerror", "socketerror", " 500 ", " 502 ", " 503 ", " 504 ", "connectionerror",
	}},
	{"Python pip package installation error", []string{
		"could not find a version", "package not found", "modulenotfounderror", "no matching distribution found",
	}},
	{"Yum installation error", []string{"nothing to do"}},
	{"Git clone error", []string{
		"could not read from remote repository", "correct access rights", "repository not found",
	}},
	{"Data or argument error", []string{"404", "400", "keyerror", "column missing", "runtimeerror"}},
	{"Code or syntax error", []string{"syntaxerror", "typeerror"}},
}

// reasonOf derives an exit reason from the exceptions that a run reports: the first rule that any of them meets.
func reasonOf(exceptions []string) string {
	text := strings.ToLower(strings.Join(exceptions, "\n"))
	for _, rule := range reasonRules {
		for _, mark := range rule.marks {
			if strings.Contains(text, mark) {
				return rule.reason
			}
		}
	}
	return "Runtime exception encountered"
}

const (
	// terminateTimeout bounds a call of Terminate.
	terminateTimeout = 30 * time.Second
	// maxTerminating bounds the concurrent calls of Terminate.
	maxTerminating = 16
)

// terminator has engines end runs that are STOPPED while the request that stopped them goes on. It only saves time: an
// engine also ends the containers of every STOPPED run that it sees, so a failure here loses nothing.
type terminator struct {
	engines EngineRegistry
	log     *slog.Logger
	slots   *semaphore.Weighted
	ctx     context.Context //nolint:containedctx // The life of the terminator itself, which outlives requests.
	cancel  context.CancelFunc

	mu      sync.Mutex
	closed  bool
	ongoing sync.WaitGroup
}

func newTerminator(engines EngineRegistry, log *slog.Logger) *terminator {
	ctx, cancel := context.WithCancel(context.Background())
	return &terminator{engines: engines, log: log, slots: semaphore.NewWeighted(maxTerminating), ctx: ctx, cancel: cancel}
}

// end has the engine of a run end it, and returns at once.
func (t *terminator) end(run state.Run) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	// It ends within terminateTimeout of its slot, and close waits for it.
	t.ongoing.Go(func() {
		if t.slots.Acquire(t.ctx, 1) != nil {
			return
		}
		defer t.slots.Release(1)
		ctx, cancel := context.WithTimeout(t.ctx, terminateTimeout)
		defer cancel()
		e, err := t.engines.Engine(ctx, run.EngineKey())
		if err == nil {
			err = e.Terminate(ctx, run)
		}
		if err != nil && !errors.As(err, new(engine.NotNow)) {
			t.log.Warn("cannot end the stopped run now; the follower of its cluster will", "run_id", run.RunID, "cluster", run.ClusterName, "error", err)
		}
	})
}

// close waits for the calls under way. It cancels them when ctx ends.
func (t *terminator) close(ctx context.Context) error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	inTime := context.AfterFunc(ctx, t.cancel)
	t.ongoing.Wait()
	t.cancel()
	if !inTime() {
		return ctx.Err()
	}
	return nil
}
