package shim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stitchfix/flotilla-os/execution/engine/local/limits"
	"github.com/stitchfix/flotilla-os/fault"
)

// OwnProgram is this very program, also after its file was replaced by a newer one.
const OwnProgram = "/proc/self/exe"

// ErrNotStarted is wrapped by the error of Launch if the shim executed nothing. The folder says why, if anything does.
var ErrNotStarted = errors.New("the shim did not start the command")

// lockPoll is how often the lock is looked at if there is no pidfd.
const lockPoll = 250 * time.Millisecond

// Launcher starts shims. It keeps one waiting for its folder: the program is large, and its start would be most of the
// time between submitting a run and its running. Use from many goroutines is safe.
type Launcher struct {
	// Program is the binary whose command "shim" is Run.
	Program string

	mu    sync.Mutex
	spare *waitingShim
}

// Prepare starts the waiting shim unless there is one.
func (l *Launcher) Prepare() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spare != nil {
		return nil
	}
	var err error
	l.spare, err = spawn(l.Program)
	return err
}

// SparePID returns the process id of the waiting shim, 0 if there is none.
func (l *Launcher) SparePID() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spare == nil {
		return 0
	}
	return l.spare.child.Process.Pid
}

func (l *Launcher) takeSpare() *waitingShim {
	l.mu.Lock()
	defer l.mu.Unlock()
	spare := l.spare
	l.spare = nil
	return spare
}

// Launch has a shim execute the attempt of a prepared folder, and returns when the command has started.
func (l *Launcher) Launch(folder Folder) (*Process, error) {
	waiting := l.takeSpare()
	if waiting == nil {
		var err error
		if waiting, err = spawn(l.Program); err != nil {
			return nil, err
		}
	}
	return waiting.execute(folder)
}

// Close ends the waiting shim. The others live on.
func (l *Launcher) Close() {
	if spare := l.takeSpare(); spare != nil {
		spare.dismiss()
	}
}

// waitingShim is a shim without a folder. It ends when we do, because that closes its standard input.
type waitingShim struct {
	child *exec.Cmd
	pidfd int
	// input and output are our ends of its standard input and output.
	input, output *os.File
}

// spawn starts a shim in a session of its own, so that it outlives us once it has its folder. Its environment holds
// nothing but what commands and container clients get from it: the server's own has secrets.
func spawn(program string) (*waitingShim, error) {
	stdin, input, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting the shim: %w", err)
	}
	output, stdout, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting the shim: %w", err), stdin.Close(), input.Close())
	}
	w := &waitingShim{pidfd: -1, input: input, output: output}
	w.child = &exec.Cmd{
		Path: program, Args: []string{"flotilla-os", Command, folderFromInput}, Dir: "/",
		Env:   inherited(slices.Concat(passedOn, clientVariables, []string{fault.EnvVar})...),
		Stdin: stdin, Stdout: stdout, SysProcAttr: &syscall.SysProcAttr{Setsid: true, PidFD: &w.pidfd},
	}
	err = w.child.Start()
	_, _ = stdin.Close(), stdout.Close()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting the shim: %w", err), input.Close(), output.Close())
	}
	return w, nil
}

// execute hands the folder over.
func (w *waitingShim) execute(folder Folder) (*Process, error) {
	defer func() { _ = w.output.Close() }()
	// In one piece: a path is shorter than what a pipe takes at once.
	_, err := w.input.WriteString(string(folder))
	_ = w.input.Close()
	if line, _ := bufio.NewReader(w.output).ReadString('\n'); err == nil && line == readyLine {
		return &Process{Folder: folder, child: w.child, pidfd: pollable(w.pidfd)}, nil
	}
	return nil, errors.Join(ErrNotStarted, err, w.reap())
}

func (w *waitingShim) dismiss() {
	_, _ = w.input.Close(), w.output.Close()
	_ = w.reap()
}

func (w *waitingShim) reap() error {
	if w.pidfd >= 0 {
		_ = unix.Close(w.pidfd)
	}
	return w.child.Wait()
}

// Process is a living shim with a folder.
type Process struct {
	Folder Folder
	// pidfd becomes readable when the shim is dead. It is nil if the system gave none; then the lock is watched.
	pidfd *os.File
	// child is set if we are the shim's parent and have to reap it.
	child *exec.Cmd
}

// Attach finds the living shim of a folder, whoever started it. It returns nil if there is none.
func Attach(folder Folder) (*Process, error) {
	locked, err := folder.Locked()
	if err != nil || !locked {
		return nil, err
	}
	started, err := folder.ReadStarted()
	if err != nil {
		return nil, err
	}
	return &Process{Folder: folder, pidfd: started.open()}, nil
}

// open returns a pidfd of the shim, nil if the process cannot be seen, or is another one with the same number. A nil
// Started is a shim between its lock and "started".
func (s *Started) open() *os.File {
	if s == nil {
		return nil
	}
	if boot, err := bootID(); err != nil || boot != s.BootID {
		return nil
	}
	pidfd, err := unix.PidfdOpen(s.PID, 0)
	if err != nil {
		return nil
	}
	// Looked at after the opening: from then on the number cannot pass to another process unseen.
	if stat, err := limits.Stat(s.PID); err != nil || int64(stat.Starttime) != s.StartTicks { //nolint:gosec // a time in ticks fits
		_ = unix.Close(pidfd)
		return nil
	}
	return pollable(pidfd)
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

// Wait returns nil when the shim is gone, or the error of ctx if that ends first.
func (p *Process) Wait(ctx context.Context) error {
	if err := p.waitGone(ctx); err != nil {
		return err
	}
	p.Close()
	if p.child != nil {
		_ = p.child.Wait() // the folder says more than its status
	}
	return nil
}

func (p *Process) waitGone(ctx context.Context) error {
	if p.pidfd != nil {
		defer context.AfterFunc(ctx, func() { _ = p.pidfd.SetReadDeadline(time.Unix(1, 0)) })()
		raw, err := p.pidfd.SyscallConn()
		if err == nil {
			err = raw.Read(func(fd uintptr) bool {
				ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) //nolint:gosec // descriptors are small
				return err == nil && ready > 0
			})
		}
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
	}
	ticks := time.NewTicker(lockPoll)
	defer ticks.Stop()
	for {
		if locked, err := p.Folder.Locked(); err == nil && !locked {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticks.C:
		}
	}
}

// Close lets go of the shim without ending it.
func (p *Process) Close() {
	if p.pidfd != nil {
		_ = p.pidfd.Close()
	}
}

// Terminate asks the shim of a folder, if there is one, to end its command. One that has yet to look finds the request
// in the folder: whichever of "stop" and "started" is written first, one side sees the other's.
func Terminate(folder Folder) error {
	if !folder.stopRequested() {
		if err := os.MkdirAll(string(folder), 0o700); err != nil {
			return fmt.Errorf("making the run's folder: %w", err)
		}
		if err := folder.write(stopFile, struct{}{}); err != nil {
			return err
		}
	}
	living, err := Attach(folder)
	if err != nil || living == nil || living.pidfd == nil {
		return err
	}
	defer living.Close()
	raw, err := living.pidfd.SyscallConn()
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
