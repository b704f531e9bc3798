package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stitchfix/flotilla-os/fault"
)

// Exit statuses of the shim itself, for its parent's log only: what happened to the run is in the folder.
const (
	shimDone    = 0
	shimFailed  = 70 // EX_SOFTWARE of sysexits(3)
	shimRefused = 75 // EX_TEMPFAIL: another shim has, or had, this attempt
)

// readyLine on standard output tells a parent that "started" is in the folder.
const readyLine = "started\n"

// lockPatience outlasts a server that only looks whether the folder is locked.
const lockPatience = 200 * time.Millisecond

// errTaken: the attempt belongs to another shim, living or dead.
var errTaken = errors.New("the attempt was started before")

// RunShim is the command `flotilla-os shim FOLDER`: it executes one attempt, from the spec in the folder to the result
// in the folder, at most once ever, and needs nobody to live beside it. It answers the exit status of the process.
func RunShim(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: flotilla-os shim FOLDER, or - to read its path from standard input")
		return shimFailed
	}
	folder, err := folderOf(args[0])
	if err == nil && folder == "" {
		return shimDone // the server that prepared us has gone, or needs us no longer
	}
	if err == nil {
		err = newShim(folder).run()
	}
	switch {
	case err == nil:
		return shimDone
	case errors.Is(err, errTaken), errors.Is(err, errLocked):
		fmt.Fprintln(os.Stderr, err)
		return shimRefused
	default:
		fmt.Fprintln(os.Stderr, err)
		return shimFailed
	}
}

// folderFromInput in the place of the folder: its path comes by standard input, later.
const folderFromInput = "-"

// folderOf answers the folder to work in. Our errors go to a file in it: nobody may be left to read them elsewhere.
func folderOf(arg string) (Folder, error) {
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
	folder  Folder
	spec    Spec
	inside  enclosure
	started Started
	// ended and terminate are apart, so that a flood of ended children cannot displace a wish to terminate.
	ended, terminate chan os.Signal
	// main is the command's process; zero once it was reaped, with status then holding how it ended.
	main    int
	status  unix.WaitStatus
	cause   cause
	metered meter
}

func newShim(folder Folder) *shim {
	return &shim{folder: folder, ended: make(chan os.Signal, 1), terminate: make(chan os.Signal, 1)}
}

// run goes through an attempt's life. The order of its steps is what docs/crash-points.md relies on: lock, then
// "started", then the command, then the result; a shim that finds "started" does nothing.
func (s *shim) run() error {
	lock, err := s.folder.lockPatiently(lockPatience)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	fault.Point(fault.ShimLocked)
	signal.Notify(s.ended, unix.SIGCHLD)
	signal.Notify(s.terminate, unix.SIGTERM, unix.SIGINT)
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE)
	if err := s.take(); err != nil {
		return err
	}
	fault.Point(fault.ShimStartedRecorded)
	if failure := s.launch(); failure != nil {
		return errors.Join(s.finish(Exit{ExitCode: neverStartedCode, Reason: failure.Error(), NeverStarted: true}), s.release())
	}
	fault.Point(fault.ShimCommandStarted)
	s.ready()
	s.follow()
	s.sweep()
	return errors.Join(s.finish(s.result()), s.release())
}

// take records that this attempt is ours; after it there is no second start.
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
	stat, err := readStat(selfPID())
	if err != nil {
		return fmt.Errorf("reading our own start time: %w", err)
	}
	boot, err := bootID()
	if err != nil {
		return fmt.Errorf("reading the boot id: %w", err)
	}
	s.started = Started{PID: selfPID(), StartTicks: stat.startTicks, BootID: boot, StartedAt: time.Now()}
	if s.spec.DeadlineSeconds > 0 {
		s.started.DeadlineAt = s.started.StartedAt.Add(time.Duration(s.spec.DeadlineSeconds) * time.Second)
	}
	return s.folder.write(startedFile, s.started)
}

// launch starts the command inside its limits. Its error is a sentence for the user.
func (s *shim) launch() error {
	if s.folder.stopRequested() {
		return errors.New("stopped before it started")
	}
	// Whatever the command leaves behind becomes our child, and so cannot escape us.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming a subreaper: %w", err)
	}
	inside, err := s.spec.enclose()
	if err != nil {
		return fmt.Errorf("setting the run's limits: %w", err)
	}
	s.inside, s.metered.since = inside, time.Now()
	s.main, err = inside.start(s.fork)
	return err
}

// fork starts the command as the leader of its own process group in our session.
func (s *shim) fork(attr *sysProcAttr) (int, error) {
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
		Dir: s.folder.path(workFolder), Env: s.environment(), Sys: attr,
		Files: []uintptr{input.Fd(), output.Fd(), output.Fd()},
	})
	if err != nil {
		return 0, fmt.Errorf("the command cannot be started: %w", err)
	}
	return pid, nil
}

func (s *shim) environment() []string {
	if s.spec.Container != nil {
		return clientEnvironment(s.spec.Env)
	}
	return s.folder.environment(s.spec.Env)
}

// ready tells the parent; one that has died, or never asked, is no matter.
func (s *shim) ready() {
	_, _ = os.Stdout.WriteString(readyLine)
}

func (s *shim) finish(exit Exit) error {
	exit.StartedAt, exit.FinishedAt = s.started.StartedAt, time.Now()
	err := s.folder.write(exitFile, exit)
	fault.Point(fault.ShimExitWritten)
	return err
}

// release gives back what the limits took from the machine.
func (s *shim) release() error {
	if s.inside == nil {
		return nil
	}
	return removePatiently(s.inside)
}
