// Package shim executes one attempt at a local run and outlives the server that started it.
//
// What lives here: the program `flotilla-os shim`, the attempt's folder, which is the whole protocol between it and the
// server, and the server's handle on it (Launcher, Attach, Terminate). What does not: which run starts when, and what is
// reported of it (execution/engine/local); how limits are kept (execution/engine/local/limits).
//
// A shim starts for each run, so the package imports nothing of the service.
package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stitchfix/flotilla-os/execution/engine/local/limits"
	"github.com/stitchfix/flotilla-os/fault"
)

// Command is the word on the command line that makes this program a shim.
const Command = "shim"

// Exit statuses of the shim itself, for its parent's log only: what happened to the run is in the folder.
const (
	exitDone    = 0
	exitFailed  = 70 // EX_SOFTWARE of sysexits(3)
	exitRefused = 75 // EX_TEMPFAIL: another shim has, or had, this attempt
)

const (
	// folderFromInput stands for the folder on the command line: the path comes by standard input, later.
	folderFromInput = "-"
	// readyLine on standard output tells a parent that the command has started.
	readyLine = "started\n"
	// lockPatience outlasts a server that only looks whether the folder is locked.
	lockPatience = 200 * time.Millisecond
)

// errTaken is returned if the attempt belongs to another shim, living or dead.
var errTaken = errors.New("another shim has, or had, this attempt")

// Run is the command `flotilla-os shim FOLDER`. It executes one attempt, from the spec in the folder to the result in
// the folder, at most once ever, and needs no server beside it. It returns the exit status of the process.
func Run(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: flotilla-os shim FOLDER, or - to read its path from standard input")
		return exitFailed
	}
	folder, err := openFolder(args[0])
	if err == nil && folder == "" {
		return exitDone // the server that prepared this shim has gone, or needs it no longer
	}
	if err == nil {
		s := &shim{folder: folder, childEnded: make(chan os.Signal, 1), terminate: make(chan os.Signal, 1)}
		err = s.run()
	}
	if err == nil {
		return exitDone
	}
	fmt.Fprintln(os.Stderr, err)
	if errors.Is(err, errTaken) {
		return exitRefused
	}
	return exitFailed
}

// openFolder returns the folder to work in, empty if there is none. From then on errors go to a file in it: nobody may
// be left to read them elsewhere.
func openFolder(arg string) (Folder, error) {
	if arg == folderFromInput {
		path, err := io.ReadAll(os.Stdin)
		if err != nil || len(path) == 0 {
			return "", err
		}
		arg = string(path)
	}
	path, err := filepath.Abs(arg)
	if err != nil {
		return "", err
	}
	folder := Folder(path)
	log, err := os.OpenFile(folder.path(shimLogFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { _ = log.Close() }()
	return folder, unix.Dup3(int(log.Fd()), unix.Stderr, 0)
}

// shim executes one attempt.
type shim struct {
	folder    Folder
	spec      Spec
	enclosure limits.Enclosure
	started   Started
	// childEnded and terminate are apart, so that a flood of ended children cannot displace a request to terminate.
	childEnded, terminate chan os.Signal
	// main is the command's first process, zero once it was reaped; status then holds how it ended.
	main   int
	status unix.WaitStatus
	cause  cause
	meter  meter
}

// run takes an attempt from its spec to its result. docs/crash-points.md relies on the order of the steps: lock, then
// "started", then the command, then the result. A shim that finds "started" does nothing.
func (s *shim) run() error {
	lock := s.folder.lock()
	bounded, cancel := context.WithTimeout(context.Background(), lockPatience)
	defer cancel()
	if _, err := lock.TryLockContext(bounded, 5*time.Millisecond); err != nil {
		if bounded.Err() != nil {
			return errTaken
		}
		return fmt.Errorf("taking the run's lock: %w", err)
	}
	defer func() { _ = lock.Close() }()
	fault.Point(fault.ShimLocked)
	signal.Notify(s.childEnded, unix.SIGCHLD)
	signal.Notify(s.terminate, unix.SIGTERM, unix.SIGINT)
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE)
	if err := s.take(); err != nil {
		return err
	}
	fault.Point(fault.ShimStartedRecorded)
	if err := s.start(); err != nil {
		return s.finish(Exit{ExitCode: CodeNeverStarted, Reason: err.Error(), NeverStarted: true})
	}
	fault.Point(fault.ShimCommandStarted)
	_, _ = os.Stdout.WriteString(readyLine) // the parent may be dead
	s.follow()
	s.killRest()
	return s.finish(s.result())
}

// take records that this attempt is ours. After it there is no second start.
func (s *shim) take() error {
	earlier, err := s.folder.ReadStarted()
	if err != nil {
		return err
	}
	if earlier != nil {
		return errTaken
	}
	if s.spec, err = s.folder.ReadSpec(); err != nil {
		return err
	}
	stat, err := limits.Stat(os.Getpid())
	if err != nil {
		return fmt.Errorf("reading our own start time: %w", err)
	}
	boot, err := bootID()
	if err != nil {
		return fmt.Errorf("reading the boot id: %w", err)
	}
	s.started = Started{PID: stat.PID, StartTicks: int64(stat.Starttime), BootID: boot, StartedAt: time.Now()} //nolint:gosec // a time in ticks fits
	if s.spec.DeadlineSeconds > 0 {
		s.started.DeadlineAt = s.started.StartedAt.Add(time.Duration(s.spec.DeadlineSeconds) * time.Second)
	}
	return s.folder.write(startedFile, s.started)
}

// bootID returns an id that changes with every boot of the machine.
var bootID = sync.OnceValues(func() (string, error) {
	body, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(body)), err
})

// start starts the command inside its limits. Its error is a sentence for the user.
func (s *shim) start() error {
	if s.folder.stopRequested() {
		return errors.New("stopped before it started")
	}
	// Whatever the command leaves behind becomes our child, and so cannot escape us.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming a subreaper: %w", err)
	}
	enclosure, err := limits.NewWatchdog(0), error(nil)
	if s.spec.Container == nil { // a container's runtime keeps the limits
		enclosure, err = s.spec.Limits.Enclose(s.spec.Name(), s.spec.MemoryLimitMB, s.spec.CPULimitMillicores)
	}
	if err != nil {
		return fmt.Errorf("setting the run's limits: %w", err)
	}
	s.enclosure, s.meter.windowStart = enclosure, time.Now()
	s.main, err = enclosure.Start(s.fork)
	return err
}

// fork starts the command as the leader of its own process group in our session.
func (s *shim) fork(attr *syscall.SysProcAttr) (int, error) {
	program, err := exec.LookPath(s.spec.Argv[0])
	if err != nil {
		return 0, fmt.Errorf("the command cannot be started: %w", err)
	}
	output, err := os.OpenFile(s.folder.LogPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return 0, fmt.Errorf("opening the run's log: %w", err)
	}
	defer func() { _ = output.Close() }()
	input, err := os.Open(os.DevNull)
	if err != nil {
		return 0, fmt.Errorf("opening the null device: %w", err)
	}
	defer func() { _ = input.Close() }()
	attr.Setpgid = true
	pid, err := syscall.ForkExec(program, s.spec.Argv, &syscall.ProcAttr{
		Dir: s.folder.WorkDir(), Env: s.folder.environment(s.spec), Sys: attr,
		Files: []uintptr{input.Fd(), output.Fd(), output.Fd()},
	})
	if err != nil {
		return 0, fmt.Errorf("the command cannot be started: %w", err)
	}
	return pid, nil
}

// finish writes the result and gives back what the limits took from the machine.
func (s *shim) finish(exit Exit) error {
	exit.StartedAt, exit.FinishedAt = s.started.StartedAt, time.Now()
	err := s.folder.write(exitFile, exit)
	fault.Point(fault.ShimExitWritten)
	if s.enclosure == nil {
		return err
	}
	return errors.Join(err, limits.CloseEmptied(s.enclosure))
}
