package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"time"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/state"
)

// Pauses between tries of what failed, doubled each time.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 15 * time.Second
)

// startedPoll is how often a folder is looked at whose shim is on its way to write "started".
const startedPoll = 5 * time.Millisecond

// retry calls do, with growing pauses, until it succeeds or ctx ends. It logs the first failure only.
func (f *follower) retry(ctx context.Context, step, runID string, do func() error) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := do()
		if err == nil {
			return nil
		}
		if pause == firstPause && ctx.Err() == nil {
			f.logger.Warn("step of a run failed, trying again", "run_id", runID, "step", step, "error", err)
		}
		if !engine.Pause(ctx, pause) {
			return errors.Join(ctx.Err(), err)
		}
	}
}

// supervise takes one run from the commit of its start to its end, or until ctx ends; its shim lives on then.
func (f *follower) supervise(ctx context.Context, t ticket) {
	for over := false; !over; {
		err := f.retry(ctx, "advance", t.runID, func() (err error) {
			over, err = f.advance(ctx, t)
			return err
		})
		if err != nil || ctx.Err() != nil {
			return
		}
	}
	f.admission.release(t.runID)
	f.poke()
}

// advance looks at the folder and does what is next. The folder alone decides (docs/crash-points.md). It looks at the
// lock first: a shim holds it until its result is written, so no result is missed.
func (f *follower) advance(ctx context.Context, t ticket) (over bool, err error) {
	folder := f.folder(t.runID, t.attempt)
	living, err := shim.Attach(folder)
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
		return true, f.finish(ctx, t, f.ended(t, *exit))
	}
	started, err := folder.ReadStarted()
	if err != nil {
		return false, err
	}
	if started != nil {
		if err := shim.KillOrphans(ctx, folder); err != nil {
			f.logger.Warn("cannot remove what a lost run left behind", "run_id", t.runID, "error", err)
		}
		f.logger.Warn("run lost with its host", "run_id", t.runID)
		return true, f.finish(ctx, t, f.lost(t))
	}
	return false, f.start(ctx, t)
}

// start starts the shim with the limits of today: those of the spec may have gone with a reboot.
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
	living, err := f.launcher.Launch(folder)
	if ctx.Err() == nil {
		f.group.Go(f.prepareShim)
	}
	if err == nil {
		fault.Point(fault.ProcessStarted)
		return f.accompany(ctx, t, living)
	}
	// A shim that could not execute the command left a result; one that came second left everything to the first.
	if exit, _ := folder.ReadExit(); exit != nil {
		return nil
	}
	if started, _ := folder.ReadStarted(); started != nil {
		return nil
	}
	return err
}

// accompany reports a living attempt as RUNNING and waits for its shim's end. It returns early if the shim has yet to
// write "started".
func (f *follower) accompany(ctx context.Context, t ticket, living *shim.Process) error {
	defer living.Close()
	started, err := living.Folder.ReadStarted()
	if err != nil {
		return err
	}
	if started == nil { // between its lock and "started"
		engine.Pause(ctx, startedPoll)
		return nil
	}
	seen := engine.Observation{RunID: t.runID, Attempt: int64(t.attempt), Status: state.StatusRunning}
	seen.Update.StartedAt, seen.Update.InstanceDNS = &started.StartedAt, &f.host
	if err := f.observe(ctx, seen); err != nil {
		return err
	}
	return living.Wait(ctx)
}

// finish reports the end and tidies up: the log stays, the work folder goes, as a pod's does.
func (f *follower) finish(ctx context.Context, t ticket, seen engine.Observation) error {
	if err := f.observe(ctx, seen); err != nil {
		return err
	}
	folder := f.folder(t.runID, t.attempt)
	if spec, err := folder.ReadSpec(); err == nil && slices.Contains(spec.Limits.Names(), spec.Name()) {
		if err := shim.KillOrphans(ctx, folder); err != nil {
			f.logger.Warn("cannot remove a run's cgroups", "run_id", t.runID, "error", err)
		}
	}
	if err := os.RemoveAll(folder.WorkDir()); err != nil {
		f.logger.Warn("cannot remove a run's work folder", "run_id", t.runID, "error", err)
	}
	return nil
}

// ended returns the observation of a result.
func (f *follower) ended(t ticket, exit shim.Exit) engine.Observation {
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

// reasonLost is the exit reason of a run whose shim, or machine, died under it.
const reasonLost = "lost with its host"

// lost returns the observation of a run that left no result.
func (f *follower) lost(t ticket) engine.Observation {
	seen := engine.Observation{RunID: t.runID, Attempt: int64(t.attempt), Status: state.StatusStopped}
	seen.Update.ExitReason, seen.Update.FinishedAt = new(reasonLost), new(f.cfg.Clock())
	return seen
}

// observe reports until it is recorded, or ctx ends: what happened is not forgotten because the database is away.
func (f *follower) observe(ctx context.Context, seen engine.Observation) error {
	err := f.retry(ctx, fmt.Sprintf("record %s", seen.Status), seen.RunID, func() error { return f.observer.Observe(ctx, seen) })
	if err != nil {
		return fmt.Errorf("recording a change: %w", err)
	}
	return nil
}
