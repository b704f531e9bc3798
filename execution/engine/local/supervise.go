package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"time"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/state"
)

// Delays between tries of what failed, doubled each time.
const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = 15 * time.Second
)

// startedPoll is how often "started" is looked for in a folder whose shim is on its way to write it.
const startedPoll = 5 * time.Millisecond

// supervise goes with one run from the commit of its start to its end, or until ctx ends; its shim lives on then.
func (f *follower) supervise(ctx context.Context, t ticket) {
	for delay := firstDelay; ; delay = min(2*delay, lastDelay) {
		over, err := f.advance(ctx, t)
		if ctx.Err() != nil {
			return
		}
		if over {
			f.ended(t)
			return
		}
		if err == nil {
			delay = firstDelay
			continue
		}
		f.logger.Warn("executing a run met a difficulty; trying again", "run_id", t.runID, "error", err)
		if !engine.Pause(ctx, delay) {
			return
		}
	}
}

// advance looks at the folder and does what is next; the folder alone decides (docs/crash-points.md). The lock is looked
// at first: a result that is written later than the look is seen, because its shim holds the lock until then.
func (f *follower) advance(ctx context.Context, t ticket) (over bool, err error) {
	folder := f.folder(t.runID, t.attempt)
	living, err := attach(folder)
	if err != nil {
		return false, err
	}
	if living != nil {
		return false, f.accompany(ctx, t, living)
	}
	exit, err := folder.ReadExit()
	if err != nil {
		return false, err
	}
	if exit != nil {
		fault.Point(fault.ExitSeen)
		return true, f.finish(ctx, t, f.observed(t, *exit))
	}
	started, err := folder.ReadStarted()
	if err != nil {
		return false, err
	}
	if started != nil {
		if err := removeLeftovers(ctx, folder); err != nil {
			f.logger.Warn("removing what a lost run left behind failed", "run_id", t.runID, "error", err)
		}
		f.logger.Warn("a run was lost with its host", "run_id", t.runID)
		return true, f.finish(ctx, t, f.lost(t))
	}
	return false, f.start(ctx, t)
}

// start starts the shim, in the limits of today: those of the spec may have gone with a reboot.
func (f *follower) start(ctx context.Context, t ticket) error {
	folder := f.folder(t.runID, t.attempt)
	spec, err := folder.ReadSpec()
	if err != nil {
		return err
	}
	if spec.Container == nil && !reflect.DeepEqual(spec.Limits, f.limits) {
		spec.Limits = f.limits
		if err := folder.Prepare(spec); err != nil {
			return err
		}
	}
	living, err := f.shims.launch(folder)
	if ctx.Err() == nil {
		f.group.Go(f.prepareShim)
	}
	if err == nil {
		fault.Point(fault.ProcessStarted)
		return f.accompany(ctx, t, living)
	}
	// A shim that could not execute the command left a result, one that was second left everything to the first.
	if exit, _ := folder.ReadExit(); exit != nil {
		return nil
	}
	if started, _ := folder.ReadStarted(); started != nil {
		return nil
	}
	return err
}

// accompany reports a living attempt as RUNNING and waits for its shim's end.
func (f *follower) accompany(ctx context.Context, t ticket, living *attempt) error {
	defer living.close()
	started, err := f.awaitStarted(ctx, living.folder)
	if err != nil || started == nil {
		return err
	}
	seen := engine.Observation{RunID: t.runID, Attempt: int64(t.attempt), Status: state.StatusRunning}
	seen.Update.StartedAt, seen.Update.InstanceDNS = &started.StartedAt, &f.host
	if err := f.observe(ctx, seen); err != nil {
		return err
	}
	return living.wait(ctx)
}

// awaitStarted answers nil where the shim ends before it writes "started".
func (f *follower) awaitStarted(ctx context.Context, folder Folder) (*Started, error) {
	for {
		started, err := folder.ReadStarted()
		if err != nil || started != nil {
			return started, err
		}
		if locked, err := folder.Locked(); err != nil || !locked {
			return nil, err
		}
		if !engine.Pause(ctx, startedPoll) {
			return nil, ctx.Err()
		}
	}
}

// finish reports the end and tidies up: the log stays, the work folder goes, as a pod's does.
func (f *follower) finish(ctx context.Context, t ticket, seen engine.Observation) error {
	if err := f.observe(ctx, seen); err != nil {
		return err
	}
	folder := f.folder(t.runID, t.attempt)
	if spec, err := folder.ReadSpec(); err == nil && len(spec.Limits.existing(enclosureName(spec.RunID, spec.Attempt))) > 0 {
		if err := removeLeftovers(ctx, folder); err != nil {
			f.logger.Warn("removing a run's cgroups failed", "run_id", t.runID, "error", err)
		}
	}
	if err := os.RemoveAll(folder.path(workFolder)); err != nil {
		f.logger.Warn("removing a run's work folder failed", "run_id", t.runID, "error", err)
	}
	return nil
}

// observed turns a result into what is reported.
func (f *follower) observed(t ticket, exit Exit) engine.Observation {
	seen := engine.Observation{RunID: t.runID, Attempt: int64(t.attempt), Status: state.StatusStopped}
	seen.Update = state.RunUpdate{
		ExitCode: new(int64(exit.ExitCode)), ExitReason: &exit.Reason, FinishedAt: &exit.FinishedAt, InstanceDNS: &f.host,
	}
	if !exit.NeverStarted {
		seen.Update.StartedAt = &exit.StartedAt
	}
	if exit.MaxMemoryMB > 0 {
		seen.Update.MaxMemoryUsed, seen.Update.MaxCPUUsed = &exit.MaxMemoryMB, &exit.MaxMillicores
	}
	return seen
}

// observe reports until it is recorded, or ctx ends: what happened is not forgotten because the database is away.
func (f *follower) observe(ctx context.Context, seen engine.Observation) error {
	for delay := firstDelay; ; delay = min(2*delay, lastDelay) {
		err := f.observer.Observe(ctx, seen)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			f.logger.Warn("a change was not recorded; trying again", "run_id", seen.RunID, "status", seen.Status, "error", err)
		}
		if !engine.Pause(ctx, delay) {
			return errors.Join(ctx.Err(), fmt.Errorf("recording a change: %w", err))
		}
	}
}
