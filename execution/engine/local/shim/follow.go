package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stitchfix/flotilla-os/execution/engine/local/limits"
)

const (
	// sampleInterval is how often usage is measured, and how late a watchdog may be (architecture.md, "Local driver").
	sampleInterval = 50 * time.Millisecond
	// killPatience bounds how long killed processes may take to be gone: one that hangs in the kernel must not keep a run
	// RUNNING for ever.
	killPatience = 30 * time.Second
)

// cause is why the shim itself ended a command. The first one counts.
type cause int

const (
	causeNone cause = iota
	causeMemory
	causeDeadline
	causeTerminate
)

// follow waits for the command's end and ends it if memory, deadline or the server asks for that.
func (s *shim) follow() {
	samples := time.NewTicker(sampleInterval)
	defer samples.Stop()
	deadline, kill, giveUp := stoppedTimer(), stoppedTimer(), stoppedTimer()
	if !s.started.DeadlineAt.IsZero() {
		deadline.Reset(time.Until(s.started.DeadlineAt))
	}
	grace := time.Duration(s.spec.GraceSeconds) * time.Second
	// Like a container, the command is sent SIGTERM once, however often it is asked to end.
	begin := func(why cause, grace time.Duration) {
		if s.cause != causeNone {
			return
		}
		s.cause = why
		kill.Reset(grace)
		if grace > 0 {
			s.signalAll(unix.SIGTERM)
		}
	}
	for s.main != 0 {
		select {
		case <-s.childEnded:
			s.reap()
		case <-s.terminate:
			begin(causeTerminate, grace)
		case <-deadline.C:
			begin(causeDeadline, grace)
		case <-samples.C:
			if s.meter.add(time.Now(), s.enclosure.Measure(false)) {
				begin(causeMemory, 0)
				kill.Reset(0) // the limit also holds during a grace period
			}
		case <-kill.C:
			s.signalAll(unix.SIGKILL)
			giveUp.Reset(killPatience)
		case <-giveUp.C:
			return
		}
	}
}

// stoppedTimer returns a timer that fires only after a Reset.
func stoppedTimer() *time.Timer {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return timer
}

// reap collects every child that has ended. It reports whether a child is left, dead or alive.
func (s *shim) reap() bool {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return false // ECHILD
		case pid == 0:
			return true
		case pid == s.main:
			s.main, s.status = 0, status
		}
	}
}

// signalAll reaches every process of the attempt: the process group at once, then those that left it, by tree and by
// cgroup.
func (s *shim) signalAll(signal unix.Signal) {
	seen := map[int]bool{os.Getpid(): true}
	if s.main != 0 {
		_ = limits.Signal(-s.main, signal)
		seen[s.main] = true
	}
	for _, pid := range append(limits.Descendants(os.Getpid()), s.enclosure.PIDs()...) {
		if !seen[pid] {
			seen[pid] = true
			_ = limits.Signal(pid, signal)
		}
	}
}

// killRest kills what the command left behind, as the end of a container's first process does on Kubernetes. A
// subreaper without children has nothing left. It also takes the last measurement and removes the container.
func (s *shim) killRest() {
	s.meter.add(time.Now(), s.enclosure.Measure(true))
	retry := time.NewTicker(time.Millisecond)
	defer retry.Stop()
	giveUp := time.NewTimer(killPatience)
	defer giveUp.Stop()
	for s.reap() {
		s.signalAll(unix.SIGKILL)
		select {
		case <-retry.C:
		case <-s.childEnded:
		case <-giveUp.C:
			return
		}
	}
	s.meter.add(time.Now(), s.enclosure.Measure(true))
	if s.spec.Container == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	oom, err := s.spec.Container.killedForMemory(ctx)
	if err := errors.Join(err, s.spec.Container.remove(ctx)); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	// With code 0 only a child was killed, and the command succeeded.
	code, _ := commandEnd(s.status)
	s.meter.oom = s.meter.oom || (oom && code != 0)
}

// Codes and reasons of an attempt's end. Those that the server stores are the constants of package state; a test holds
// the two together, because the shim imports nothing of the service.
const (
	CodeNeverStarted = 1
	CodeDeadline     = 124
	CodeOOM          = 137
	ReasonOOM        = "OOMKilled"
	// ReasonCompleted and ReasonError are what a container's runtime says on Kubernetes.
	ReasonCompleted = "Completed"
	ReasonError     = "Error"
	// signalBase plus the signal's number is the code of a command that a signal ended, as in shells.
	signalBase = 128
)

// result turns how the command ended into what is recorded. 137 is written for memory kills and for what the command
// itself returned, never for our own kills (kubernetes.md, "Following").
func (s *shim) result() Exit {
	exit := Exit{
		MaxMemoryMB:   (s.meter.memory + limits.Megabyte - 1) / limits.Megabyte, // rounded up: a command that ran used some
		MaxMillicores: s.meter.millicores,
	}
	switch {
	case s.cause == causeDeadline:
		exit.ExitCode = CodeDeadline
		exit.Reason = fmt.Sprintf("The run exceeded its active_deadline_seconds of %d and was killed.", s.spec.DeadlineSeconds)
	case s.cause == causeTerminate:
		exit.Reason, exit.Terminated = "Terminated", true
		exit.ExitCode, _ = commandEnd(s.status)
		if s.main != 0 || (s.status.Signaled() && s.status.Signal() == unix.SIGKILL) {
			exit.ExitCode = signalBase + int(unix.SIGTERM) // it did not end within the grace period
		}
	case s.meter.oom:
		exit.ExitCode, exit.Reason, exit.OOMKilled = CodeOOM, ReasonOOM, true
	default:
		exit.ExitCode, exit.Reason = commandEnd(s.status)
	}
	return exit
}

// commandEnd returns the code and reason of a command's own end.
func commandEnd(status unix.WaitStatus) (int, string) {
	switch {
	case status.Signaled():
		return signalBase + int(status.Signal()), fmt.Sprintf("%s: signal %d (%s)", ReasonError, status.Signal(), status.Signal())
	case status.ExitStatus() == 0:
		return 0, ReasonCompleted
	default:
		return status.ExitStatus(), ReasonError
	}
}

// meter keeps the highest values of an attempt's usage.
type meter struct {
	memory     int64 // bytes
	millicores int64
	oom        bool
	// windowStart and windowCPU are the time and the CPU use at the beginning of the present window.
	windowStart time.Time
	windowCPU   time.Duration
}

// meterWindow is the time over which CPU use is averaged before its maximum is taken.
const meterWindow = time.Second

// add takes one measurement and reports whether the memory limit was exceeded.
func (m *meter) add(now time.Time, u limits.Usage) bool {
	m.memory = max(m.memory, u.Memory)
	m.oom = m.oom || u.OOM
	// A command that ends within its first window counts as idle for the remainder.
	window := max(now.Sub(m.windowStart), meterWindow)
	m.millicores = max(m.millicores, int64(1000*(u.CPU-m.windowCPU)/window))
	if now.Sub(m.windowStart) >= meterWindow {
		m.windowStart, m.windowCPU = now, u.CPU
	}
	return m.oom
}
