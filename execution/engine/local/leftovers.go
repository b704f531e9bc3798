package local

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

// removeLeftovers kills what a shim that was itself killed has left of its attempt, and removes its cgroups.
func removeLeftovers(ctx context.Context, folder Folder) error {
	spec, err := folder.ReadSpec()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	cgroups := spec.Limits.existing(enclosureName(spec.RunID, spec.Attempt))
	started, err := folder.ReadStarted()
	if err != nil {
		return err
	}
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for left := true; left; {
		left = killLeftovers(folder, started, cgroups)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-retry.C:
		}
	}
	errs := []error{spec.Container.remove(ctx)}
	for _, c := range cgroups {
		errs = append(errs, c.remove())
	}
	return errors.Join(errs...)
}

// killLeftovers answers whether there was anything to kill.
func killLeftovers(folder Folder, started *Started, cgroups []cgroup) bool {
	found := map[int]bool{}
	for _, c := range cgroups {
		for _, pid := range c.pids() {
			found[pid] = true
		}
	}
	if boot, err := bootID(); err == nil && started != nil && boot == started.BootID {
		for _, pid := range markedProcesses(folder, started.PID) {
			found[pid] = true
		}
	}
	for pid := range found {
		_ = sendSignal(pid, unix.SIGKILL)
	}
	return len(found) > 0
}

// markedProcesses are those that carry the attempt's marker, what they started, and, as long as one of them proves that
// the session is still the attempt's, everything in its session.
func markedProcesses(folder Folder, session int) []int {
	var found []int
	sessions := map[int][]int{}
	ours := false
	for _, pid := range allPIDs() {
		stat, err := readStat(pid)
		if err != nil || stat.dead() || pid == selfPID() {
			continue
		}
		if hasVariable(pid, attemptVariable+"="+string(folder)) {
			found = append(append(found, pid), descendants(pid)...)
			ours = ours || stat.session == session
		}
		sessions[stat.session] = append(sessions[stat.session], pid)
	}
	if ours {
		found = append(found, sessions[session]...)
	}
	return found
}
