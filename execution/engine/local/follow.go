package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/fault"
)

// How often the follower looks at what nobody tells it.
const (
	lockRetry        = 500 * time.Millisecond
	incomingInterval = 250 * time.Millisecond
	relistInterval   = time.Minute
	stoppedInterval  = time.Second
	cleanInterval    = time.Hour
	// storeTimeout bounds one call to the store: a database that hangs must not stop the rest.
	storeTimeout = 10 * time.Second
)

// follower drives the runs of the data folder while it holds the folder's lock.
type follower struct {
	*Engine
	observer engine.Observer
	logger   *slog.Logger
	group    sync.WaitGroup
	mu       sync.Mutex
	// supervised runs have a goroutine of their own.
	supervised map[string]bool
}

// Follow starts what was admitted, attaches to what an earlier server left running, and reports both. One process per
// data folder does this; another that shares the folder waits here until that one is gone.
func (e *Engine) Follow(ctx context.Context, o engine.Observer) error {
	lock, err := e.lockFolder(ctx)
	if err != nil || lock == nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	f := &follower{Engine: e, observer: o, logger: e.cfg.Logger, supervised: map[string]bool{}}
	if err := e.limits.restore(); err != nil {
		return err
	}
	e.driving.Store(true)
	defer f.leave()
	f.group.Go(func() { f.keepAlive(ctx) })
	f.group.Go(func() { f.takeLiving(ctx) })
	f.group.Go(f.prepareShim)
	f.admit(ctx)
	return nil
}

// lockFolder answers nil where ctx ends first.
func (e *Engine) lockFolder(ctx context.Context) (*os.File, error) {
	ticks := time.NewTicker(lockRetry)
	defer ticks.Stop()
	for waiting := false; ; waiting = true {
		lock, err := lockPath(filepath.Join(e.dataDir, driverLock))
		if !errors.Is(err, errLocked) {
			return lock, err
		}
		if !waiting {
			e.cfg.Logger.Info("another server drives this data folder; waiting to take over", "data_dir", e.dataDir)
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-ticks.C:
		}
	}
}

// leave waits for the goroutines, and forgets what the next follower learns from the database. Shims live on.
func (f *follower) leave() {
	f.driving.Store(false)
	f.group.Wait()
	f.shims.dismiss()
	f.limits.leave()
	f.admission.empty()
	f.startsMu.Lock()
	f.starts = nil
	f.startsMu.Unlock()
}

// prepareShim has a shim waiting for the next run.
func (f *follower) prepareShim() {
	if err := f.shims.prepare(); err != nil {
		f.logger.Warn("preparing a shim failed; the next run starts its own", "error", err)
	}
}

// admit is the loop that decides who starts.
func (f *follower) admit(ctx context.Context) {
	incoming, relist := time.NewTicker(incomingInterval), time.NewTicker(relistInterval)
	defer incoming.Stop()
	defer relist.Stop()
	f.cleanCgroups()
	f.relist.Store(true)
	for ctx.Err() == nil {
		f.admitOnce(ctx)
		select {
		case <-ctx.Done():
		case <-f.wake:
		case <-incoming.C:
			f.takeIncoming()
		case <-relist.C:
			f.relist.Store(true)
		}
	}
}

func (f *follower) admitOnce(ctx context.Context) {
	f.takeStarts(ctx)
	if f.relist.Swap(false) {
		if err := f.list(ctx); err != nil && ctx.Err() == nil {
			f.logger.Warn("listing this node's runs failed; trying again", "error", err)
			f.relist.Store(true)
		}
	}
	for ctx.Err() == nil {
		t, ok := f.admission.next()
		if !ok {
			return
		}
		if err := f.commitStart(ctx, t); err != nil {
			f.logger.Warn("committing a start failed; trying again", "run_id", t.runID, "error", err)
			f.admission.putBack(t)
			return // the ticker comes back
		}
	}
}

// takeStarts begins what Execute committed as started.
func (f *follower) takeStarts(ctx context.Context) {
	f.startsMu.Lock()
	starts := f.starts
	f.starts = nil
	f.startsMu.Unlock()
	for _, t := range starts {
		f.begin(ctx, t)
	}
}

// commitStart records the intent and begins the run; one that is no longer ours to start is forgotten.
func (f *follower) commitStart(ctx context.Context, t ticket) error {
	bounded, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	ours, err := f.cfg.Store.CommitStart(bounded, t.runID, f.node)
	if err != nil {
		return err
	}
	if !ours {
		// Stopped, most likely; but an earlier try may have been committed without our knowing, and the list tells.
		f.admission.release(t.runID)
		f.relist.Store(true)
		return nil
	}
	fault.Point(fault.StartIntentCommitted)
	f.begin(ctx, t)
	return nil
}

// begin gives an admitted run its goroutine, once.
func (f *follower) begin(ctx context.Context, t ticket) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.supervised[t.runID] {
		return
	}
	f.supervised[t.runID] = true
	f.group.Go(func() { f.supervise(ctx, t) })
}

func (f *follower) ended(t ticket) {
	f.mu.Lock()
	delete(f.supervised, t.runID)
	f.mu.Unlock()
	f.admission.release(t.runID)
	f.poke()
}

// keepAlive says that this node lives, ends what was stopped elsewhere, and tells why runs wait.
func (f *follower) keepAlive(ctx context.Context) {
	beats, stopped, clean := time.NewTicker(engine.Heartbeat), time.NewTicker(stoppedInterval), time.NewTicker(cleanInterval)
	defer beats.Stop()
	defer stopped.Stop()
	defer clean.Stop()
	f.try(ctx, "heartbeat", f.heartbeat)
	for {
		select {
		case <-ctx.Done():
			return
		case <-beats.C:
			f.try(ctx, "heartbeat", f.heartbeat)
		case <-stopped.C:
			f.try(ctx, "look for stopped runs", f.endStopped)
			f.try(ctx, "tell why runs wait", f.explain)
		case <-clean.C:
			f.removeOld(ctx)
		}
	}
}

func (f *follower) try(ctx context.Context, task string, do func(context.Context) error) {
	bounded, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := do(bounded); err != nil && ctx.Err() == nil {
		f.logger.Warn("a task of the local engine failed; trying again", "task", task, "error", err)
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
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range over {
		errs = append(errs, f.end(id))
	}
	return errors.Join(errs...)
}

// explainAtOnce bounds the updates of one look.
const explainAtOnce = 50

// explain writes into the rows of waiting runs why they wait.
func (f *follower) explain(ctx context.Context) error {
	var errs []error
	for _, t := range f.admission.explain(explainAtOnce) {
		reason := fmt.Sprintf("waits for %d MB of memory and %d millicores of CPU on cluster %s", t.request.memory, t.request.cpu, f.cfg.ClusterName)
		seen := engine.Observation{RunID: t.runID, Attempt: int64(t.attempt)}
		seen.Update.StatusReason = &reason
		errs = append(errs, f.observer.Observe(ctx, seen))
	}
	return errors.Join(errs...)
}
