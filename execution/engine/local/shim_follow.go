package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// sampleInterval is how often usage is measured, and how late a watchdog may be (architecture.md, "Local driver").
const sampleInterval = 50 * time.Millisecond

// sweepPatience is how long killed processes may take to be gone: one that hangs in the kernel must not keep a run
// RUNNING for ever.
const sweepPatience = 30 * time.Second

// cause is why the shim itself ended a command; the first one counts.
type cause int

const (
	causeNone cause = iota
	causeMemory
	causeDeadline
	causeTerminate
)

// follow waits for the command's end and hastens it where memory, deadline or the server asks for that.
func (s *shim) follow() {
	samples := time.NewTicker(sampleInterval)
	defer samples.Stop()
	deadline, kill, giveUp := never(), never(), never()
	if !s.started.DeadlineAt.IsZero() {
		deadline.Reset(time.Until(s.started.DeadlineAt))
	}
	// The first reason to end the command counts; asked again, it is not told again, as a container is not.
	begin := func(why cause, grace time.Duration) {
		if s.cause != causeNone {
			return
		}
		s.cause = why
		kill.Reset(grace)
		if grace > 0 {
			s.signal(unix.SIGTERM)
		}
	}
	grace := time.Duration(s.spec.GraceSeconds) * time.Second
	for s.main != 0 {
		select {
		case <-s.ended:
			s.reap()
		case <-s.terminate:
			begin(causeTerminate, grace)
		case <-deadline.C:
			begin(causeDeadline, grace)
		case <-samples.C:
			if s.metered.add(time.Now(), s.inside.measure(false)) {
				begin(causeMemory, 0)
				kill.Reset(0) // also where a grace period was running: the limit holds during it
			}
		case <-kill.C:
			s.signal(unix.SIGKILL)
			giveUp.Reset(sweepPatience)
		case <-giveUp.C:
			return
		}
	}
}

// never is a timer that fires only after a Reset.
func never() *time.Timer {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return timer
}

// reap collects every child that has ended; it answers false when there is none left, dead or alive.
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

// signal reaches everything of the attempt: the process group at once, then those that left it, by tree and by cgroup.
func (s *shim) signal(signal unix.Signal) {
	seen := map[int]bool{}
	if s.main != 0 {
		_ = sendSignal(-s.main, signal)
		seen[s.main] = true
	}
	for _, pid := range append(descendants(selfPID()), s.inside.pids()...) {
		if !seen[pid] && pid != selfPID() {
			seen[pid] = true
			_ = sendSignal(pid, signal)
		}
	}
}

// sweep kills what the command left behind, as the end of a container's first process does on Kubernetes. That we have
// no child any more is the kernel's word that nothing is left.
func (s *shim) sweep() {
	s.metered.add(time.Now(), s.inside.measure(true))
	retry := time.NewTicker(time.Millisecond)
	defer retry.Stop()
	giveUp := time.NewTimer(sweepPatience)
	defer giveUp.Stop()
	for s.reap() {
		s.signal(unix.SIGKILL)
		select {
		case <-retry.C:
		case <-s.ended:
		case <-giveUp.C:
			return
		}
	}
	s.metered.add(time.Now(), s.inside.measure(true))
	s.metered.oom = s.containerEnd() || s.metered.oom
}

// containerEnd removes the container, where there is one, and answers whether it was killed for memory. Code 0 is a
// success all the same: only a child was killed.
func (s *shim) containerEnd() bool {
	if s.spec.Container == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), sweepPatience)
	defer cancel()
	oom, err := s.spec.Container.killedForMemory(ctx)
	if err := errors.Join(err, s.spec.Container.remove(ctx)); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	code, _ := ownVerdict(s.status)
	return oom && code != 0
}

// result turns how the command ended into what is recorded. 137 is written for memory kills and for what the command
// itself returned, never for our own kills (kubernetes.md, "Following").
func (s *shim) result() Exit {
	exit := Exit{MaxMemoryMB: s.metered.memoryMB(), MaxMillicores: s.metered.millicores}
	memory := s.metered.oom && s.cause != causeDeadline && s.cause != causeTerminate
	switch {
	case memory:
		exit.ExitCode, exit.Reason, exit.OOMKilled = oomCode, oomReason, true
	case s.cause == causeDeadline:
		exit.ExitCode = deadlineCode
		exit.Reason = fmt.Sprintf("The run exceeded its active_deadline_seconds of %d and was killed.", s.spec.DeadlineSeconds)
	case s.cause == causeTerminate:
		exit.ExitCode, exit.Reason, exit.Terminated = terminatedCode(s.main, s.status), "Terminated", true
	default:
		exit.ExitCode, exit.Reason = ownVerdict(s.status)
	}
	return exit
}
