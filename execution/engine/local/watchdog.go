package local

import (
	"time"

	"golang.org/x/sys/unix"
)

// watchdog keeps the memory limit by looking: the summed memory of everything below the shim. Processes that leave
// their group or session stay below it, because the shim is a subreaper.
type watchdog struct {
	limit int64 // bytes, 0 for none
	peak  int64
	cpu   time.Duration
	oom   bool
}

func newWatchdog(spec Spec) *watchdog {
	return &watchdog{limit: spec.MemoryLimitMB * megabyte}
}

func (w *watchdog) start(fork func(*sysProcAttr) (int, error)) (int, error) {
	return fork(&sysProcAttr{})
}

// measure reads the expensive proportional sizes only when the cheap upper bound says that they could matter: shared
// pages are counted in full there, so a sum below the present peak changes nothing.
func (w *watchdog) measure(bool) usage {
	pids := descendants(selfPID())
	var bound int64
	for _, pid := range pids {
		bound += residentBytes(pid)
	}
	if bound > w.peak {
		var sum int64
		for _, pid := range pids {
			sum += proportionalBytes(pid)
		}
		w.peak = max(w.peak, sum)
	}
	w.oom = w.oom || (w.limit > 0 && w.peak > w.limit)
	w.cpu = max(w.cpu, treeCPU(pids))
	return usage{memory: w.peak, cpu: w.cpu, oom: w.oom}
}

// treeCPU adds the time of living processes to that of those already reaped by us or by their parents.
func treeCPU(pids []int) time.Duration {
	var total time.Duration
	var reaped unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &reaped); err == nil {
		total = time.Duration(reaped.Utime.Nano() + reaped.Stime.Nano())
	}
	for _, pid := range pids {
		if stat, err := readStat(pid); err == nil {
			total += stat.cpu
		}
	}
	return total
}

func (w *watchdog) pids() []int { return nil }

func (w *watchdog) close() error { return nil }
