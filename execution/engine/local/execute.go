package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/stitchfix/flotilla-os/execution/container"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/state"
)

// Execute prepares the attempt's folder and commits the acceptance; where the run fits at once, the same commit holds
// the intent to start it, and the follower starts it without a further look at the database.
func (e *Engine) Execute(ctx context.Context, s engine.Submission) error {
	spec, err := e.prepare(ctx, s)
	if err != nil {
		return err
	}
	if !e.beaten.Load() {
		if err := e.heartbeat(ctx); err != nil {
			return err
		}
	}
	fault.Point(fault.ExecutePrepared)
	t := ticketOf(s.Run, spec)
	known, reserved := e.admission.announce(t, e.driving.Load())
	accepted, err := s.Accept(ctx, e.acceptance(spec, reserved))
	if err != nil {
		e.abandon(t, known)
		e.relist.Store(true) // the commit may have happened all the same
		e.poke()
		return fmt.Errorf("accepting the run: %w", err)
	}
	if !accepted {
		// Nothing runs in the folder; it stays, because the claim's next holder may be using it already.
		e.abandon(t, known)
		return nil
	}
	return e.hand(t, known, reserved)
}

// hand passes an accepted attempt to whoever drives this folder.
func (e *Engine) hand(t ticket, known, reserved bool) error {
	if known {
		// Someone else is handing it on, or was and failed: then the list finds it.
		e.relist.Store(true)
		e.poke()
		return nil
	}
	if reserved {
		fault.Point(fault.StartIntentCommitted)
		e.startsMu.Lock()
		e.starts = append(e.starts, t)
		e.startsMu.Unlock()
		e.admission.settle(t, false)
		e.poke()
		return nil
	}
	fault.Point(fault.PendingCommitted)
	if e.driving.Load() {
		e.admission.settle(t, true)
		e.poke()
		return nil
	}
	e.admission.release(t.runID)
	return e.leaveForDriver(t)
}

func (e *Engine) abandon(t ticket, known bool) {
	if !known {
		e.admission.release(t.runID)
		e.poke()
	}
}

// prepare makes the attempt's folder; one that is there from an earlier try is used as it is, sizes included.
func (e *Engine) prepare(ctx context.Context, s engine.Submission) (Spec, error) {
	run := s.Run
	if run.RunID == "" || filepath.Base(run.RunID) != run.RunID || run.RunID == ".." {
		return Spec{}, engine.Rejected{Reason: "The run's id cannot name a folder."}
	}
	folder := e.folder(run.RunID, int(run.Attempt()))
	spec, err := folder.ReadSpec()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if spec, err = e.specOf(ctx, s); err != nil {
			return Spec{}, err
		}
	case err != nil:
		return Spec{}, err
	}
	request := amount{spec.MemoryMB, spec.CPUMillicores}
	if !request.within(e.admission.capacity) {
		return Spec{}, engine.Rejected{Reason: fmt.Sprintf(
			"The run requests %d MB of memory and %d millicores of CPU, and can never fit in the capacity of cluster %s: %d MB and %d millicores.",
			request.memory, request.cpu, e.cfg.ClusterName, e.admission.capacity.memory, e.admission.capacity.cpu)}
	}
	return spec, folder.Prepare(spec)
}

func (e *Engine) specOf(ctx context.Context, s engine.Submission) (Spec, error) {
	size, err := e.cfg.Sizer.Resources(ctx, s.Executable, s.Run)
	if err != nil {
		return Spec{}, fmt.Errorf("sizing the run: %w", err)
	}
	spec := Spec{
		RunID: s.Run.RunID, Attempt: int(s.Run.Attempt()), Argv: container.Command(s.Run),
		MemoryMB: size.Memory, CPUMillicores: size.CPU, MemoryLimitMB: size.Limit.Memory, CPULimitMillicores: size.Limit.CPU,
		DeadlineSeconds: e.deadlineOf(s.Run), GraceSeconds: int64(e.cfg.TerminateGrace / time.Second), Limits: e.limits,
	}
	for _, v := range container.Env(s.Executable, s.Run) {
		spec.Env = append(spec.Env, v.Name+"="+v.Value)
	}
	if runtime := e.cfg.ContainerRuntime; runtime != "" && runtime != noRuntime {
		spec = spec.inContainer(runtime, s.Run.Image)
	}
	return spec, nil
}

// deadlineOf is what is left of the run's deadline, which counts from its first attempt's start.
func (e *Engine) deadlineOf(run state.Run) int64 {
	if run.ActiveDeadlineSeconds == nil || *run.ActiveDeadlineSeconds <= 0 {
		return 0
	}
	left := *run.ActiveDeadlineSeconds
	if run.StartedAt != nil {
		left -= int64(e.cfg.Clock().Sub(*run.StartedAt) / time.Second)
	}
	return max(1, left)
}

func (e *Engine) acceptance(spec Spec, intent bool) state.Acceptance {
	a := state.Acceptance{
		Size:  state.Size{Memory: spec.MemoryMB, CPU: spec.CPUMillicores},
		Limit: state.Size{Memory: spec.MemoryLimitMB, CPU: spec.CPULimitMillicores},
		Node:  e.node,
	}
	if intent {
		a.InstanceID = e.node
	}
	return a
}

func ticketOf(run state.Run, spec Spec) ticket {
	t := ticket{runID: run.RunID, attempt: int(run.Attempt()), request: amount{spec.MemoryMB, spec.CPUMillicores}}
	if run.QueuedAt != nil {
		t.queuedAt = *run.QueuedAt
	}
	return t
}

// leaveForDriver tells the server that drives this folder of a run that it now has. Where this fails, the driver finds
// the run in the database a little later.
func (e *Engine) leaveForDriver(t ticket) error {
	body := fmt.Appendf(nil, "%d", t.queuedAt.UnixNano())
	path := filepath.Join(e.dataDir, incomingFolder, fmt.Sprintf("%s.%d", t.runID, t.attempt))
	if err := os.WriteFile(path+".tmp", body, 0o600); err != nil {
		return fmt.Errorf("leaving the run to the driving server: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("leaving the run to the driving server: %w", err)
	}
	return nil
}
