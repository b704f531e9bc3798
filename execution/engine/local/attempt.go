package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// errNoStart: the shim ended without taking the attempt; nothing was executed, and it may be started again.
var errNoStart = errors.New("the shim did not start the command")

// attempt is the server's side of a living shim.
type attempt struct {
	folder Folder
	// pidfd becomes readable when the shim is dead; nil where the system gave none, then the lock is watched.
	pidfd *os.File
	// child is set where we are the shim's parent and have to reap it.
	child *exec.Cmd
}

// pollable hands a pidfd to the runtime's poller, so that waiting costs no thread.
func pollable(pidfd int) *os.File {
	if pidfd < 0 {
		return nil
	}
	if err := unix.SetNonblock(pidfd, true); err != nil {
		_ = unix.Close(pidfd)
		return nil
	}
	return os.NewFile(uintptr(pidfd), "pidfd")
}

// attach finds the living shim of a folder, whoever started it; nil where there is none.
func attach(folder Folder) (*attempt, error) {
	locked, err := folder.Locked()
	if err != nil || !locked {
		return nil, err
	}
	a := &attempt{folder: folder}
	started, err := folder.ReadStarted()
	if err != nil || started == nil {
		return a, err // between its lock and "started": the lock is watched
	}
	a.pidfd = openShim(*started)
	return a, nil
}

// openShim answers nil where the process cannot be seen, or is another one with the same number.
func openShim(started Started) *os.File {
	if boot, err := bootID(); err != nil || boot != started.BootID {
		return nil
	}
	pidfd, err := unix.PidfdOpen(started.PID, 0)
	if err != nil {
		return nil
	}
	// Looked at after the opening: from then on the number cannot pass to another process unseen.
	if stat, err := readStat(started.PID); err != nil || stat.startTicks != started.StartTicks {
		_ = unix.Close(pidfd)
		return nil
	}
	return pollable(pidfd)
}

// lockPoll is how often the lock is looked at where no pidfd is to be had.
const lockPoll = 250 * time.Millisecond

// wait returns nil when the shim is gone, and the context's error when that ends first.
func (a *attempt) wait(ctx context.Context) error {
	if err := a.waitGone(ctx); err != nil {
		return err
	}
	a.close()
	if a.child != nil {
		_ = a.child.Wait() // its status says nothing that the folder does not
	}
	return nil
}

func (a *attempt) waitGone(ctx context.Context) error {
	if a.pidfd == nil {
		return a.waitLock(ctx)
	}
	defer context.AfterFunc(ctx, func() { _ = a.pidfd.SetReadDeadline(time.Unix(1, 0)) })()
	raw, err := a.pidfd.SyscallConn()
	if err != nil {
		return a.waitLock(ctx)
	}
	err = raw.Read(func(fd uintptr) bool {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) //nolint:gosec // descriptors are small
		return err == nil && ready > 0
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return a.waitLock(ctx)
	}
	return nil
}

func (a *attempt) waitLock(ctx context.Context) error {
	ticks := time.NewTicker(lockPoll)
	defer ticks.Stop()
	for {
		if locked, err := a.folder.Locked(); err == nil && !locked {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticks.C:
		}
	}
}

// close lets go of the shim without ending it.
func (a *attempt) close() {
	if a.pidfd != nil {
		_ = a.pidfd.Close()
	}
}

// terminate asks the shim of a folder, if there is one, to end its command; one that has yet to look finds the wish in
// the folder. Whichever of "stop" and "started" is written first, one side sees the other's.
func terminate(folder Folder) error {
	if err := folder.RequestStop(); err != nil {
		return err
	}
	locked, err := folder.Locked()
	if err != nil || !locked {
		return err
	}
	started, err := folder.ReadStarted()
	if err != nil || started == nil {
		return err
	}
	pidfd := openShim(*started)
	if pidfd == nil {
		return nil
	}
	defer func() { _ = pidfd.Close() }()
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("terminating the shim: %w", err)
	}
	var sent error
	err = raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), unix.SIGTERM, nil, 0) })
	if err := errors.Join(err, sent); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("terminating the shim: %w", err)
	}
	return nil
}
