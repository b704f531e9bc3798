package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

// reasonLost ends a run whose shim, or machine, died under it.
const reasonLost = "lost with its host"

// listPage is how many runs are read at once.
const listPage = 500

// list takes up every run that the database says is this node's and that is not known here: all of them after a start,
// and later those whose acceptance got lost on its way.
func (f *follower) list(ctx context.Context) error {
	for after := ""; ; {
		bounded, cancel := context.WithTimeout(ctx, storeTimeout)
		runs, err := f.cfg.Store.ActiveRuns(bounded, f.cfg.ClusterName, f.node, after, listPage)
		cancel()
		if err != nil {
			return err
		}
		for _, run := range runs {
			if err := f.adopt(ctx, run); err != nil {
				f.logger.Error("taking a run up failed", "run_id", run.RunID, "error", err)
			}
			after = run.RunID
		}
		if len(runs) < listPage {
			return nil
		}
	}
}

// adopt decides by the row and the folder what becomes of a run (docs/crash-points.md).
func (f *follower) adopt(ctx context.Context, run state.Run) error {
	spec, err := f.folder(run.RunID, int(run.Attempt())).ReadSpec()
	if errors.Is(err, fs.ErrNotExist) {
		return f.adoptWithoutFolder(ctx, run)
	}
	if err != nil {
		return err
	}
	t := ticketOf(run, spec)
	t.explained = run.StatusReason != nil
	if run.Status == state.StatusPending && run.InstanceID == "" {
		f.admission.enqueueNew(t)
		return nil
	}
	if f.admission.resume(t) {
		f.begin(ctx, t)
	}
	return nil
}

// takeLiving takes up every attempt that lives here, whatever its row says: one that was stopped while no server was
// here is not among the node's active runs, and its process must be ended all the same (endStopped does).
func (f *follower) takeLiving(ctx context.Context) {
	folders, err := filepath.Glob(filepath.Join(f.dataDir, "runs", "*", "attempt-*"))
	if err != nil {
		f.logger.Warn("looking for living runs failed", "error", err)
		return
	}
	for _, path := range folders {
		if ctx.Err() != nil {
			return
		}
		folder := Folder(path)
		if locked, err := folder.Locked(); err != nil || !locked {
			continue
		}
		spec, err := folder.ReadSpec()
		if err != nil {
			f.logger.Warn("a living run has no specification", "run_folder", path, "error", err)
			continue
		}
		t := ticketOf(state.Run{RunID: spec.RunID, AttemptCount: new(int64(spec.Attempt))}, spec)
		if f.admission.resume(t) {
			f.begin(ctx, t)
		}
	}
}

// adoptWithoutFolder: a run whose start was not committed goes back to the queue; of another we do not know whether it
// was executed, so it is not executed again.
func (f *follower) adoptWithoutFolder(ctx context.Context, run state.Run) error {
	f.logger.Warn("the folder of a run is missing", "run_id", run.RunID)
	bounded, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if run.Status == state.StatusPending && run.InstanceID == "" {
		_, err := f.cfg.Store.ReturnRun(bounded, run.RunID, f.node)
		return err
	}
	return f.observer.Observe(bounded, f.lost(ticketOf(run, Spec{})))
}

func (f *follower) lost(t ticket) engine.Observation {
	seen := engine.Observation{RunID: t.runID, Attempt: int64(t.attempt), Status: state.StatusStopped}
	seen.Update.ExitReason, seen.Update.FinishedAt = new(reasonLost), new(f.cfg.Clock())
	return seen
}

// takeIncoming queues what servers that share this folder accepted for us.
func (f *follower) takeIncoming() {
	dir := filepath.Join(f.dataDir, incomingFolder)
	entries, err := os.ReadDir(dir)
	if err != nil {
		f.logger.Warn("reading what other servers accepted failed", "error", err)
		return
	}
	for _, entry := range entries {
		if strings.HasSuffix(entry.Name(), ".tmp") {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		if err := f.takeOne(path, entry.Name()); err != nil {
			f.logger.Warn("taking what another server accepted failed", "file", entry.Name(), "error", err)
		}
		if err := os.Remove(path); err != nil {
			f.logger.Warn("removing what another server left failed", "file", entry.Name(), "error", err)
		}
	}
}

func (f *follower) takeOne(path, name string) error {
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 {
		return fmt.Errorf("%s is not RUN.ATTEMPT", name)
	}
	attempt, err := strconv.Atoi(name[dot+1:])
	if err != nil {
		return fmt.Errorf("%s is not RUN.ATTEMPT: %w", name, err)
	}
	body, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	spec, err := f.folder(name[:dot], attempt).ReadSpec()
	if err != nil {
		return err
	}
	queued, err := strconv.ParseInt(string(body), 10, 64)
	if err != nil {
		return err
	}
	t := ticket{runID: name[:dot], attempt: attempt, queuedAt: time.Unix(0, queued), request: amount{spec.MemoryMB, spec.CPUMillicores}}
	f.admission.enqueueNew(t)
	return nil
}

// cleanCgroups removes the empty cgroups that dead shims left. A living shim may have made its own a moment ago, which
// its lock tells.
func (f *follower) cleanCgroups() {
	for _, parent := range f.limits.Parents {
		entries, err := os.ReadDir(parent)
		if err != nil {
			continue
		}
		for _, entry := range entries {
			dash := strings.LastIndexByte(entry.Name(), '-')
			if !entry.IsDir() || dash < 0 {
				continue
			}
			attempt, err := strconv.Atoi(entry.Name()[dash+1:])
			if err != nil {
				continue
			}
			if locked, err := f.folder(entry.Name()[:dash], attempt).Locked(); err == nil && !locked {
				_ = cgroup(filepath.Join(parent, entry.Name())).remove() // busy ones belong to runs that we are about to adopt
			}
		}
	}
}

// removeOld removes the folders of runs that ended longer ago than the retention, logs included.
func (f *follower) removeOld(ctx context.Context) {
	if f.cfg.LogRetention <= 0 {
		return
	}
	before := f.cfg.Clock().Add(-f.cfg.LogRetention)
	runs := filepath.Join(f.dataDir, "runs")
	entries, err := os.ReadDir(runs)
	if err != nil {
		f.logger.Warn("looking for old runs failed", "error", err)
		return
	}
	for _, entry := range entries {
		if ctx.Err() != nil {
			return
		}
		if path := filepath.Join(runs, entry.Name()); !f.admission.has(entry.Name()) && endedBefore(path, before) {
			if err := os.RemoveAll(path); err != nil {
				f.logger.Warn("removing an old run's folder failed", "run_id", entry.Name(), "error", err)
			}
		}
	}
}

// endedBefore says whether every attempt in a run's folder has a result, or was never taken, for that long.
func endedBefore(run string, before time.Time) bool {
	attempts, err := filepath.Glob(filepath.Join(run, "attempt-*"))
	if err != nil {
		return false
	}
	for _, attempt := range attempts {
		folder := Folder(attempt)
		info, err := os.Stat(attempt)
		if err != nil || info.ModTime().After(before) {
			return false
		}
		if locked, err := folder.Locked(); err != nil || locked {
			return false
		}
	}
	return len(attempts) > 0
}
