package local

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stitchfix/flotilla-os/state"
)

// Codes and words of an attempt's end.
const (
	neverStartedCode = int(state.ExitCodeNeverStarted)
	deadlineCode     = int(state.ExitCodeDeadline)
	oomCode          = int(state.ExitCodeOOM)
	oomReason        = state.ReasonOOMKilled
	// signalBase plus the signal's number is the code of a command that a signal ended, as shells have it.
	signalBase = 128
	// successReason and failureReason are what a container's runtime says on Kubernetes.
	successReason = "Completed"
	failureReason = "Error"
)

// ownVerdict is what the command itself returned.
func ownVerdict(status unix.WaitStatus) (int, string) {
	switch {
	case status.Signaled():
		return signalBase + int(status.Signal()), fmt.Sprintf("%s: signal %d (%s)", failureReason, status.Signal(), status.Signal())
	case status.ExitStatus() == 0:
		return 0, successReason
	default:
		return status.ExitStatus(), failureReason
	}
}

// terminatedCode is the command's own code where it ended within the grace period, and that of SIGTERM where our
// SIGKILL ended it.
func terminatedCode(main int, status unix.WaitStatus) int {
	if main != 0 || (status.Signaled() && status.Signal() == unix.SIGKILL) {
		return signalBase + int(unix.SIGTERM)
	}
	code, _ := ownVerdict(status)
	return code
}

// meter keeps the highest values of an attempt's usage.
type meter struct {
	memory     int64
	millicores int64
	oom        bool
	// since and cpu are where the present window began; since is set at the start.
	since time.Time
	cpu   time.Duration
}

// meterWindow is the time over which CPU use is averaged before its maximum is taken.
const meterWindow = time.Second

// add takes one measurement and answers whether the memory limit was exceeded.
func (m *meter) add(now time.Time, u usage) bool {
	m.memory = max(m.memory, u.memory)
	m.oom = m.oom || u.oom
	// A command that ends within its first window counts as if it had rested for the remainder.
	window := max(now.Sub(m.since), meterWindow)
	m.millicores = max(m.millicores, int64(1000*(u.cpu-m.cpu)/window))
	if now.Sub(m.since) >= meterWindow {
		m.since, m.cpu = now, u.cpu
	}
	return m.oom
}

// memoryMB rounds up: a command that ran used some.
func (m *meter) memoryMB() int64 { return (m.memory + megabyte - 1) / megabyte }
