package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim"
	"github.com/stitchfix/flotilla-os/fault"
)

// How often the follower looks at what nobody tells it.
const (
	lockRetry        = 500 * time.Millisecond
	incomingInterval = 250 * time.Millisecond
	relistInterval   = time.Minute
	stoppedInterval  = time.Second
	cleanInterval    = time.Hour
	// failurePause is the time until a failed step of admission is tried again.
	failurePause = time.Second
	// storeTimeout bounds one call to the store: a database that hangs must not stop the rest.
	storeTimeout = 10 * time.Second
)

// follower drives the runs of the data folder while it holds the folder's lock.
type follower struct {
	*Engine
	observer engine.Observer
	logger   *slog.Logger
	group    sync.WaitGroup

	mu sync.Mutex
	// failing holds the tasks whose last try failed.
	failing map[string]bool
}

// Follow starts what was admitted, attaches to what an earlier server left running, and reports both. One process per
// data folder does this; another that shares the folder waits here until that one is gone.
func (e *Engine) Follow(ctx context.Context, o engine.Observer) error {
	lock := flock.New(filepath.Join(e.dataDir, driverLock))
	taken, err := lock.TryLock()
	if err == nil && !taken {
		e.cfg.Logger.Info("another server drives this data folder, waiting to take over", "data_dir", e.dataDir)
		_, err = lock.TryLockContext(ctx, lockRetry)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("locking the data folder: %w", err)
	}
	defer func() { _ = lock.Close() }()
	if err := e.limits.Restore(); err != nil {
		return err
	}
	f := &follower{Engine: e, observer: o, logger: e.cfg.Logger, failing: map[string]bool{}}
	e.driving.Store(true)
	defer f.leave()
	f.group.Go(func() { f.keepAlive(ctx) })
	f.group.Go(func() { f.takeLiving(ctx) })
	f.group.Go(f.prepareShim)
	f.admit(ctx)
	return nil
}

// leave waits for the goroutines of the group and forgets what the next follower reads from the database. Shims live on.
func (f *follower) leave() {
	f.driving.Store(false)
	f.group.Wait()
	f.launcher.Close()
	f.limits.RemoveParents()
	f.admission.empty()
	f.startsMu.Lock()
	f.starts = nil
	f.startsMu.Unlock()
}

// prepareShim has a shim waiting for the next run.
func (f *follower) prepareShim() {
	f.report(context.Background(), "prepare a shim", f.launcher.Prepare())
}

// report logs the first failure of a task and its next success, not each try. It logs nothing once ctx has ended.
func (f *follower) report(ctx context.Context, task string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case ctx.Err() != nil:
	case err == nil && f.failing[task]:
		delete(f.failing, task)
		f.logger.Info("task of the local engine succeeds again", "task", task)
	case err != nil && !f.failing[task]:
		f.failing[task] = true
		f.logger.Warn("task of the local engine failed, trying again", "task", task, "error", err)
	}
}

// admit is the loop that decides who starts.
func (f *follower) admit(ctx context.Context) {
	incoming, relist := time.NewTicker(incomingInterval), time.NewTicker(relistInterval)
	defer incoming.Stop()
	defer relist.Stop()
	f.removeCgroups()
	f.relist.Store(true)
	for ctx.Err() == nil {
		err := f.admitOnce(ctx)
		f.report(ctx, "admit runs", err)
		if err != nil {
			engine.Pause(ctx, failurePause)
			continue
		}
		select {
		case <-ctx.Done():
		case <-f.wake:
		case <-incoming.C:
			f.report(ctx, "take what other servers accepted", f.takeIncoming())
		case <-relist.C:
			f.relist.Store(true)
		}
	}
}

func (f *follower) admitOnce(ctx context.Context) error {
	f.startsMu.Lock()
	starts := f.starts
	f.starts = nil
	f.startsMu.Unlock()
	for _, t := range starts {
		f.begin(ctx, t)
	}
	if f.relist.Swap(false) {
		if err := f.list(ctx); err != nil {
			f.relist.Store(true)
			return fmt.Errorf("listing this node's runs: %w", err)
		}
	}
	for ctx.Err() == nil {
		t, ok := f.admission.next()
		if !ok {
			return nil
		}
		if err := f.commitStart(ctx, t); err != nil {
			f.admission.release(t.runID)
			f.admission.enqueueNew(t)
			return fmt.Errorf("committing the start of run %s: %w", t.runID, err)
		}
	}
	return nil
}

// commitStart records the intent and begins the run. One that is no longer ours to start is forgotten.
func (f *follower) commitStart(ctx context.Context, t ticket) error {
	bounded, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	ours, err := f.cfg.Store.CommitStart(bounded, t.runID, f.node)
	if err != nil {
		return err
	}
	if !ours {
		// Most likely it was stopped. But an earlier try may have been committed without our knowing; the list tells.
		f.admission.release(t.runID)
		f.relist.Store(true)
		return nil
	}
	fault.Point(fault.StartIntentCommitted)
	f.begin(ctx, t)
	return nil
}

// begin gives a run its goroutine, which ends with the run or with ctx. Admission gives each run to one caller.
func (f *follower) begin(ctx context.Context, t ticket) {
	f.group.Go(func() { f.supervise(ctx, t) })
}

// keepAlive records that this node lives, ends what was stopped elsewhere, and explains why runs wait.
func (f *follower) keepAlive(ctx context.Context) {
	beats, stopped, clean := time.NewTicker(engine.Heartbeat), time.NewTicker(stoppedInterval), time.NewTicker(cleanInterval)
	defer beats.Stop()
	defer stopped.Stop()
	defer clean.Stop()
	try := func(task string, do func(context.Context) error) {
		bounded, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		f.report(ctx, task, do(bounded))
	}
	try("heartbeat", f.heartbeat)
	for {
		select {
		case <-ctx.Done():
			return
		case <-beats.C:
			try("heartbeat", f.heartbeat)
		case <-stopped.C:
			try("end stopped runs", f.endStopped)
			try("explain why runs wait", f.explain)
		case <-clean.C:
			f.report(ctx, "remove old runs", f.removeOld(ctx))
		}
	}
}

// stoppedWaiting is how many waiting runs are looked at, from the head of the queue: one that was stopped must not hold
// up the others.
const stoppedWaiting = 500

// endStopped terminates what the database says is over: stopped through another server, or past its deadline.
func (f *follower) endStopped(ctx context.Context) error {
	ids := f.admission.ids(stoppedWaiting)
	if len(ids) == 0 {
		return nil
	}
	over, err := f.cfg.Store.StoppedAmong(ctx, ids)
	errs := []error{err}
	for _, id := range over {
		if t, active := f.admission.get(id); active {
			errs = append(errs, shim.Terminate(f.folder(id, t.attempt)))
		} else if f.admission.drop(id) {
			f.poke()
		}
	}
	return errors.Join(errs...)
}

// explainAtOnce bounds the updates of one look.
const explainAtOnce = 50

// explain writes into the rows of waiting runs why they wait.
func (f *follower) explain(ctx context.Context) error {
	var errs []error
	for _, t := range f.admission.unexplained(explainAtOnce) {
		reason := fmt.Sprintf("waits for %d MB of memory and %d millicores of CPU on cluster %s", t.request.Memory, t.request.CPU, f.cfg.ClusterName)
		seen := engine.Observation{RunID: t.runID, Attempt: int64(t.attempt)}
		seen.Update.StatusReason = &reason
		err := f.observer.Observe(ctx, seen)
		if err == nil {
			f.admission.explained(t.runID)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
