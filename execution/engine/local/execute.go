package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/execution/container"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/state"
)

// noRuntime is the configuration's word for executing commands on the machine itself.
const noRuntime = "none"

// Execute prepares the attempt's folder and commits the acceptance. If the run fits at once, the same commit holds the
// intent to start it, and the follower starts it without another look at the database.
func (e *Engine) Execute(ctx context.Context, s engine.Submission) error {
	spec, sized, err := e.prepare(ctx, s)
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
	acceptance := state.Acceptance{Size: t.request, Node: e.node}
	acceptance.Limit = state.Size{Memory: spec.MemoryLimitMB, CPU: spec.CPULimitMillicores}
	if reserved {
		acceptance.InstanceID = e.node
	}
	accepted, err := s.Accept(ctx, acceptance)
	if err == nil && accepted {
		e.cfg.Sizer.Report(ctx, s.Run, sized)
		return e.hand(t, known, reserved)
	}
	// Nothing runs in the folder. It stays, because the claim's next holder may be using it already.
	if !known {
		e.admission.release(t.runID)
	}
	if err != nil {
		e.relist.Store(true) // the commit may have happened all the same
		err = fmt.Errorf("accepting the run: %w", err)
	}
	e.poke()
	return err
}

// hand passes an accepted attempt to whoever drives this folder.
func (e *Engine) hand(t ticket, known, reserved bool) error {
	defer e.poke()
	if known {
		e.relist.Store(true) // another call hands it on, or tried and failed: then the list finds it
		return nil
	}
	if reserved {
		fault.Point(fault.StartIntentCommitted)
		e.startsMu.Lock()
		e.starts = append(e.starts, t)
		e.startsMu.Unlock()
		e.admission.settle(t, false)
		return nil
	}
	fault.Point(fault.PendingCommitted)
	if e.driving.Load() {
		e.admission.settle(t, true)
		return nil
	}
	e.admission.release(t.runID)
	// Another server drives this folder. If telling it fails, it finds the run in the database a little later.
	path := filepath.Join(e.dataDir, incomingFolder, fmt.Sprintf("%s.%d", t.runID, t.attempt))
	err := os.WriteFile(path+".tmp", fmt.Appendf(nil, "%d", t.queuedAt.UnixNano()), 0o600)
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		return fmt.Errorf("leaving the run to the driving server: %w", err)
	}
	return nil
}

// prepare makes the attempt's folder. One that is there from an earlier try is used as it is, sizes included, and
// then nothing was decided.
func (e *Engine) prepare(ctx context.Context, s engine.Submission) (spec shim.Spec, sized adapter.Sized, err error) {
	run := s.Run
	if run.RunID == "" || filepath.Base(run.RunID) != run.RunID || run.RunID == ".." {
		return spec, sized, engine.Rejected{Reason: "The run's id cannot name a folder."}
	}
	folder := e.folder(run.RunID, int(run.Attempt()))
	spec, err = folder.ReadSpec()
	if errors.Is(err, fs.ErrNotExist) {
		if sized, err = e.cfg.Sizer.Resources(ctx, s.Executable, run, e.admission.capacity); err != nil {
			return spec, sized, fmt.Errorf("sizing the run: %w", err)
		}
		spec = e.specOf(s, sized)
	}
	if err != nil {
		return spec, sized, err
	}
	if request, capacity := requestOf(spec), e.admission.capacity; !request.Fits(capacity) {
		return spec, sized, engine.Rejected{Reason: fmt.Sprintf(
			"The run requests %d MB of memory and %d millicores of CPU, and can never fit in the capacity of cluster %s: %d MB and %d millicores.",
			request.Memory, request.CPU, e.cfg.ClusterName, capacity.Memory, capacity.CPU)}
	}
	return spec, sized, folder.Prepare(spec)
}

func (e *Engine) specOf(s engine.Submission, size adapter.Sized) shim.Spec {
	spec := shim.Spec{
		RunID: s.Run.RunID, Attempt: int(s.Run.Attempt()), Argv: container.Command(s.Run),
		MemoryMB: size.Memory, CPUMillicores: size.CPU, MemoryLimitMB: size.Limit.Memory, CPULimitMillicores: size.Limit.CPU,
		DeadlineSeconds: e.deadlineOf(s.Run), GraceSeconds: int64(e.cfg.TerminateGrace / time.Second), Limits: e.limits,
	}
	for _, v := range container.Env(s.Executable, s.Run) {
		spec.Env = append(spec.Env, v.Name+"="+v.Value)
	}
	if runtime := e.cfg.ContainerRuntime; runtime != "" && runtime != noRuntime {
		spec = spec.InContainer(runtime, s.Run.Image)
	}
	return spec
}

// deadlineOf returns what is left of the run's deadline in seconds, at least 1, or 0 if it has none. The deadline counts
// from the start of the run's first attempt.
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

func requestOf(spec shim.Spec) state.Size {
	return state.Size{Memory: spec.MemoryMB, CPU: spec.CPUMillicores}
}

func ticketOf(run state.Run, spec shim.Spec) ticket {
	t := ticket{runID: run.RunID, attempt: int(run.Attempt()), request: requestOf(spec)}
	if run.QueuedAt != nil {
		t.queuedAt = *run.QueuedAt
	}
	return t
}

// Terminate ends what this node has of a run. A run of another node is that node's to end, which asks the database.
func (e *Engine) Terminate(_ context.Context, run state.Run) error {
	if run.ClaimedBy == nil || *run.ClaimedBy != e.node {
		return nil
	}
	if e.admission.drop(run.RunID) {
		e.poke()
	}
	return shim.Terminate(e.folder(run.RunID, int(run.Attempt())))
}
