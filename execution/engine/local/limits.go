package local

import (
	"errors"
	"fmt"
	"time"
)

// Mode says how limits are kept (architecture.md, "Local driver").
type Mode string

const (
	// ModeAuto takes the first of the following that this machine allows.
	ModeAuto Mode = "auto"
	// ModeCgroup2: memory.max and cpu.max of a cgroup v2; the kernel kills the whole run at once.
	ModeCgroup2 Mode = "cgroup2"
	// ModeCgroup1: the memory and, where it is mounted, cpu controllers of cgroup v1; the kernel kills one process, we the rest.
	ModeCgroup1 Mode = "cgroup1"
	// ModeWatchdog: the process tree's memory is summed every 50 ms; CPU is measured, not limited.
	ModeWatchdog Mode = "watchdog"
)

// Limits is a mode together with the cgroup folders below which each attempt gets its own; made by ProbeLimits, handed
// to the shim in the spec.
type Limits struct {
	Mode Mode `json:"mode"`
	// Parents maps a controller ("memory", "cpu", "cpuacct"; "" for the one tree of v2) to the folder to make cgroups in.
	Parents map[string]string `json:"parents,omitempty"`
	// CPUQuota says whether CPU limits are enforced and not only measured.
	CPUQuota bool `json:"cpu_quota"`
}

// String is the form for logs and /readyz.
func (l Limits) String() string {
	if l.CPUQuota {
		return string(l.Mode) + " (memory and CPU)"
	}
	return string(l.Mode) + " (memory)"
}

// ProbeConfig holds what ProbeLimits needs.
type ProbeConfig struct {
	// Mode wanted; ModeAuto, or empty, takes the best one that works.
	Mode Mode
	// Name of the cgroup that will hold those of the runs; must tell this data folder from another's on the machine.
	Name string
	// Root is where /proc and /sys are found; empty means "/". Tests give a temporary tree.
	Root string
	// trial proves that the limits work; tests with a tree of plain files, in which nothing can be started, replace it.
	trial func(Limits) error
}

// ErrModeUnavailable: the configured way of limiting does not work on this machine.
var ErrModeUnavailable = errors.New("limits cannot be kept this way here")

// ProbeLimits finds out, by really making a cgroup and starting a process in it, how limits can be kept here.
func ProbeLimits(cfg ProbeConfig) (Limits, error) {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.trial == nil {
		cfg.trial = tryOut
	}
	probes := map[Mode]func(ProbeConfig) (Limits, error){
		ModeCgroup2: probeCgroup2, ModeCgroup1: probeCgroup1, ModeWatchdog: probeWatchdog,
	}
	if cfg.Mode != "" && cfg.Mode != ModeAuto {
		probe, ok := probes[cfg.Mode]
		if !ok {
			return Limits{}, fmt.Errorf("unknown mode %q, use auto, cgroup2, cgroup1 or watchdog", cfg.Mode)
		}
		limits, err := probe(cfg)
		if err != nil {
			return Limits{}, fmt.Errorf("%w: %s: %w", ErrModeUnavailable, cfg.Mode, err)
		}
		return limits, nil
	}
	for _, mode := range []Mode{ModeCgroup2, ModeCgroup1} {
		if limits, err := probes[mode](cfg); err == nil {
			return limits, nil
		}
	}
	return probeWatchdog(cfg)
}

func probeWatchdog(ProbeConfig) (Limits, error) {
	if _, err := readStat(selfPID()); err != nil {
		return Limits{}, fmt.Errorf("/proc is not readable: %w", err)
	}
	return Limits{Mode: ModeWatchdog}, nil
}

// usage is one measurement of a running attempt.
type usage struct {
	// memory in bytes that cannot be reclaimed at once; at the end the best estimate of the peak.
	memory int64
	// cpu time used since the start.
	cpu time.Duration
	// oom: the memory limit was exceeded and something was, or must now be, killed for it.
	oom bool
}

// enclosure is what one attempt's processes are kept in.
type enclosure interface {
	// start runs fork such that the child is inside before its first instruction.
	start(fork func(attr *sysProcAttr) (int, error)) (int, error)
	// measure is called every sampleInterval while the command runs, and once with final set after it has ended.
	measure(final bool) usage
	// pids lists the processes inside; those of the process tree are found by the shim itself.
	pids() []int
	// close removes what was made for the attempt; the processes are gone.
	close() error
}

// enclosureName names the cgroups of an attempt.
func enclosureName(runID string, attempt int) string { return fmt.Sprintf("%s-%d", runID, attempt) }

// enclose makes the enclosure of the attempt. A container's runtime keeps its limits; its client needs none.
func (s Spec) enclose() (enclosure, error) {
	if s.Container != nil {
		return newWatchdog(Spec{}), nil
	}
	return s.Limits.enclose(enclosureName(s.RunID, s.Attempt), s)
}

// enclose makes an enclosure; name must be unique on the machine's cgroup parents.
func (l Limits) enclose(name string, spec Spec) (enclosure, error) {
	switch l.Mode {
	case ModeCgroup2:
		return newCgroup2(l, name, spec)
	case ModeCgroup1:
		return newCgroup1(l, name, spec)
	case ModeWatchdog:
		return newWatchdog(spec), nil
	default:
		return nil, fmt.Errorf("unknown mode %q", l.Mode)
	}
}

// restore makes the parents again that leave removed.
func (l Limits) restore() error {
	for _, path := range l.Parents {
		parent := cgroup(path)
		if err := parent.make(); err != nil {
			return err
		}
		if l.Mode != ModeCgroup2 {
			continue
		}
		if err := parent.hand(controllerMemory); err != nil {
			return err
		}
		if err := parent.hand(controllerCPU); err != nil && l.CPUQuota {
			return err
		}
	}
	return nil
}

// leave removes the parents, unless attempts live in them.
func (l Limits) leave() {
	for _, parent := range l.Parents {
		_ = cgroup(parent).remove()
	}
}

// existing lists the cgroups that an attempt has, or its shim left behind.
func (l Limits) existing(name string) []cgroup {
	var found []cgroup
	for _, parent := range l.Parents {
		if c := cgroup(parent + "/" + name); c.has("cgroup.procs") {
			found = append(found, c)
		}
	}
	return found
}
