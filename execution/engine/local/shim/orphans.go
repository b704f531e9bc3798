package shim

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/stitchfix/flotilla-os/execution/engine/local/limits"
)

// KillOrphans kills the processes that a dead shim has left of its attempt, and removes its container and cgroups.
func KillOrphans(ctx context.Context, folder Folder) error {
	spec, err := folder.ReadSpec()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	started, err := folder.ReadStarted()
	if err != nil {
		return err
	}
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	for left := true; left; {
		orphans := spec.Limits.PIDs(spec.Name())
		if boot, err := bootID(); err == nil && started != nil && boot == started.BootID {
			orphans = append(orphans, markedProcesses(folder, started.PID)...)
		}
		for _, pid := range orphans {
			_ = limits.Signal(pid, unix.SIGKILL)
		}
		left = len(orphans) > 0
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-retry.C:
		}
	}
	return errors.Join(spec.Container.remove(ctx), spec.Limits.Remove(spec.Name()))
}

// markedProcesses lists those that carry the attempt's marker, what they started, and, as long as one of them proves
// that the session is still the attempt's, everything in its session.
func markedProcesses(folder Folder, session int) []int {
	var found, inSession []int
	ours := false
	all, _ := procfs.AllProcs()
	for _, process := range all {
		stat, err := process.Stat()
		if err != nil || stat.State == "Z" || stat.State == "X" || process.PID == os.Getpid() {
			continue
		}
		if stat.Session == session {
			inSession = append(inSession, process.PID)
		}
		if env, err := process.Environ(); err == nil && slices.Contains(env, attemptVariable+"="+string(folder)) {
			found = append(append(found, process.PID), limits.Descendants(process.PID)...)
			ours = ours || stat.Session == session
		}
	}
	if ours {
		found = append(found, inSession...)
	}
	return found
}
