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

	"github.com/stitchfix/flotilla-os/execution/engine/local/shim"
	"github.com/stitchfix/flotilla-os/state"
)

// listPage is how many runs are read at once.
const listPage = 500

// list adopts every run that the database says is this node's and that admission does not have: all of them after a
// start, and later those whose acceptance was lost on its way.
func (f *follower) list(ctx context.Context) error {
	for after := ""; ; {
		bounded, cancel := context.WithTimeout(ctx, storeTimeout)
		runs, err := f.cfg.Store.ActiveRuns(bounded, state.EngineKey{Cluster: f.cfg.ClusterName, Engine: state.EKSEngine}, f.node, after, listPage)
		cancel()
		if err != nil {
			return err
		}
		for _, run := range runs {
			f.report(ctx, "adopt run "+run.RunID, f.adopt(ctx, run))
			after = run.RunID
		}
		if len(runs) < listPage {
			return nil
		}
	}
}

// adopt decides by the row and the folder what becomes of a run (docs/crash-points.md).
func (f *follower) adopt(ctx context.Context, run state.Run) error {
	intended := run.Status != state.StatusPending || run.InstanceID != ""
	spec, err := f.folder(run.RunID, int(run.Attempt())).ReadSpec()
	if errors.Is(err, fs.ErrNotExist) {
		f.logger.Warn("the folder of a run is missing", "run_id", run.RunID)
		bounded, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		if intended { // it may have been executed, so it is not executed again
			return f.observer.Observe(bounded, f.lost(ticketOf(run, shim.Spec{})))
		}
		_, err := f.cfg.Store.ReturnRun(bounded, run.RunID, f.node)
		return err
	}
	if err != nil {
		return err
	}
	t := ticketOf(run, spec)
	t.explained = run.StatusReason != nil
	if !intended {
		f.admission.enqueueNew(t)
	} else if f.admission.resume(t) {
		f.begin(ctx, t)
	}
	return nil
}

// takeLiving adopts every attempt that lives here, whatever its row says. One that was stopped while no server was here
// is not among the node's active runs, and its process must be ended all the same; endStopped does that.
func (f *follower) takeLiving(ctx context.Context) {
	folders, err := filepath.Glob(filepath.Join(f.dataDir, runsFolder, "*", "attempt-*"))
	if err != nil {
		f.logger.Warn("cannot look for living runs", "error", err)
	}
	for _, path := range folders {
		if ctx.Err() != nil {
			return
		}
		folder := shim.Folder(path)
		if locked, err := folder.Locked(); err != nil || !locked {
			continue
		}
		spec, err := folder.ReadSpec()
		if err != nil {
			f.logger.Warn("cannot read the specification of a living run", "run_folder", path, "error", err)
			continue
		}
		t := ticketOf(state.Run{RunID: spec.RunID, AttemptCount: new(int64(spec.Attempt))}, spec)
		if f.admission.resume(t) {
			f.begin(ctx, t)
		}
	}
}

// takeIncoming queues what servers that share this folder accepted for us. A file that cannot be read is removed too:
// the list finds its run.
func (f *follower) takeIncoming() error {
	dir := filepath.Join(f.dataDir, incomingFolder)
	entries, err := os.ReadDir(dir)
	errs := []error{err}
	for _, entry := range entries {
		if strings.HasSuffix(entry.Name(), ".tmp") {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		if err := f.takeOne(path); err != nil {
			errs = append(errs, fmt.Errorf("reading %s: %w", path, err))
		}
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}

func (f *follower) takeOne(path string) error {
	runID, attempt, err := splitAttempt(filepath.Base(path), ".")
	if err != nil {
		return err
	}
	body, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	spec, err := f.folder(runID, attempt).ReadSpec()
	if err != nil {
		return err
	}
	queued, err := strconv.ParseInt(string(body), 10, 64)
	if err != nil {
		return err
	}
	f.admission.enqueueNew(ticket{runID: runID, attempt: attempt, queuedAt: time.Unix(0, queued), request: requestOf(spec)})
	return nil
}

// splitAttempt splits a name of the form RUN, separator, ATTEMPT.
func splitAttempt(name, separator string) (runID string, attempt int, err error) {
	at := strings.LastIndex(name, separator)
	if at < 0 {
		return "", 0, fmt.Errorf("%q does not name an attempt", name)
	}
	attempt, err = strconv.Atoi(name[at+1:])
	return name[:at], attempt, err
}

// removeCgroups removes the empty cgroups that dead shims left. A living shim may have made its own a moment ago; its
// lock tells. Cgroups with processes stay: they belong to runs that are about to be adopted.
func (f *follower) removeCgroups() {
	for _, name := range f.limits.Names() {
		runID, attempt, err := splitAttempt(name, "-")
		if err != nil {
			continue
		}
		if locked, err := f.folder(runID, attempt).Locked(); err == nil && !locked {
			_ = f.limits.Remove(name)
		}
	}
}

// removeOld removes the folders of runs that ended longer ago than the retention, logs included.
func (f *follower) removeOld(ctx context.Context) error {
	if f.cfg.LogRetention <= 0 {
		return nil
	}
	before := f.cfg.Clock().Add(-f.cfg.LogRetention)
	runs := filepath.Join(f.dataDir, runsFolder)
	entries, err := os.ReadDir(runs)
	errs := []error{err}
	for _, entry := range entries {
		if ctx.Err() != nil {
			break
		}
		if path := filepath.Join(runs, entry.Name()); !f.admission.has(entry.Name()) && unusedSince(path, before) {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}

// unusedSince reports whether no shim lives in a run's folder and none of its attempts has changed since then.
func unusedSince(run string, since time.Time) bool {
	attempts, err := filepath.Glob(filepath.Join(run, "attempt-*"))
	if err != nil {
		return false
	}
	for _, attempt := range attempts {
		info, err := os.Stat(attempt)
		if err != nil || info.ModTime().After(since) {
			return false
		}
		if locked, err := shim.Folder(attempt).Locked(); err != nil || locked {
			return false
		}
	}
	return len(attempts) > 0
}
