package limits

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// watchdog keeps the memory limit by looking at everything below the shim. Processes that leave their group or session
// stay below it, because the shim is a subreaper.
type watchdog struct {
	limit   int64 // bytes, 0 for none
	highest Usage
}

// NewWatchdog returns an enclosure that needs nothing of the machine. A limit of 0 only measures.
func NewWatchdog(memoryMB int64) Enclosure { return &watchdog{limit: memoryMB * Megabyte} }

func probeWatchdog(ProbeConfig) (Limits, error) {
	if _, err := Stat(os.Getpid()); err != nil {
		return Limits{}, fmt.Errorf("/proc is not readable: %w", err)
	}
	return Limits{Mode: ModeWatchdog}, nil
}

func (w *watchdog) Start(fork func(*syscall.SysProcAttr) (int, error)) (int, error) {
	return fork(&syscall.SysProcAttr{})
}

// Measure reads the proportional set sizes, which are expensive, only if the resident set sizes say that they matter:
// those count shared pages in full, so a sum below the present peak changes nothing.
func (w *watchdog) Measure(bool) Usage {
	pids, seen := Descendants(os.Getpid()), &w.highest
	var bound int64
	for _, pid := range pids {
		bound += residentBytes(pid)
	}
	if bound > seen.Memory {
		var sum int64
		for _, pid := range pids {
			sum += proportionalBytes(pid)
		}
		seen.Memory = max(seen.Memory, sum)
	}
	seen.OOM = seen.OOM || (w.limit > 0 && seen.Memory > w.limit)
	seen.CPU = max(seen.CPU, treeCPU(pids))
	return *seen
}

func (w *watchdog) PIDs() []int { return nil }

func (w *watchdog) Close() error { return nil }

// treeCPU adds the time of living processes to that of those already reaped by us or by their parents.
func treeCPU(pids []int) time.Duration {
	var total time.Duration
	var reaped unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &reaped); err == nil {
		total = time.Duration(reaped.Utime.Nano() + reaped.Stime.Nano())
	}
	for _, pid := range pids {
		if s, err := Stat(pid); err == nil {
			ticks := int64(s.UTime+s.STime) + int64(s.CUTime+s.CSTime) //nolint:gosec // a time in ticks fits
			total += time.Duration(ticks) * time.Second / ticksPerSecond
		}
	}
	return total
}

// residentBytes returns the resident set size, shared pages counted in full; 0 if the process is gone.
func residentBytes(pid int) int64 {
	if s, err := Stat(pid); err == nil {
		return int64(s.ResidentMemory())
	}
	return 0
}

// proportionalBytes returns the resident set size with each shared page divided among those who share it, or the plain
// resident set size if the kernel does not tell.
func proportionalBytes(pid int) int64 {
	if process, err := procfs.NewProc(pid); err == nil {
		if maps, err := process.ProcSMapsRollup(); err == nil && maps.Pss > 0 {
			return int64(maps.Pss) //nolint:gosec // a size of memory fits
		}
	}
	return residentBytes(pid)
}
