// Package limits keeps a local run within its memory and CPU and measures what it uses: by a cgroup v2, a cgroup v1, or
// a watchdog over the process tree, whichever this machine allows. It knows processes and cgroups, but nothing of runs,
// and stays light: the shim, which starts once per run, imports it.
//
// The contract is architecture.md, "Local driver".
package limits

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Megabyte is the unit of memory everywhere in Flotilla: 10^6 bytes, the "M" of Kubernetes.
const Megabyte = 1_000_000

// Mode names a way of keeping limits.
type Mode string

const (
	// ModeAuto takes the first of the following that this machine allows.
	ModeAuto Mode = "auto"
	// ModeCgroup2 uses memory.max and cpu.max of a cgroup v2. The kernel kills the whole run at once.
	ModeCgroup2 Mode = "cgroup2"
	// ModeCgroup1 uses the memory and, if mounted, the cpu controller of cgroup v1. The kernel kills one process only;
	// the shim kills the rest.
	ModeCgroup1 Mode = "cgroup1"
	// ModeWatchdog sums the memory of the process tree at each measurement. CPU is measured, not limited.
	ModeWatchdog Mode = "watchdog"
)

// Limits is a mode together with the cgroups below which each attempt gets its own. Probe makes it; the server hands it
// to the shim in the spec.
type Limits struct {
	Mode Mode `json:"mode"`
	// Parents maps a controller ("memory", "cpu", "cpuacct"; "" for the one tree of v2) to the folder to make cgroups in.
	Parents map[string]string `json:"parents,omitempty"`
	// CPUQuota reports whether CPU limits are enforced and not only measured.
	CPUQuota bool `json:"cpu_quota"`
}

// String returns the form for logs and /readyz.
func (l Limits) String() string {
	if l.CPUQuota {
		return string(l.Mode) + " (memory and CPU)"
	}
	return string(l.Mode) + " (memory)"
}

// ProbeConfig configures Probe.
type ProbeConfig struct {
	// Mode is the mode wanted. ModeAuto, or empty, takes the best one that works.
	Mode Mode
	// Name names the cgroup that holds those of the runs. It must be unique to the data folder on this machine.
	Name string
	// Root is where /proc and /sys are found, "/" if empty. Tests give a temporary tree.
	Root string
	// trial proves that the limits work. Tests with a tree of plain files, in which nothing can start, replace it.
	trial func(Limits) error
}

// ErrModeUnavailable is wrapped by the error of Probe if the configured mode does not work on this machine.
var ErrModeUnavailable = errors.New("limits cannot be kept this way here")

// Probe finds out how limits can be kept here, by making a cgroup and starting a process in it.
func Probe(cfg ProbeConfig) (Limits, error) {
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

// tryOut starts a process in a limited cgroup of its own: the only proof that all rights are there.
func tryOut(limits Limits) error {
	trial, err := limits.Enclose(fmt.Sprintf("trial-%d", os.Getpid()), 64, 1000)
	if err != nil {
		return err
	}
	program, err := exec.LookPath("true")
	if err != nil {
		return errors.Join(err, trial.Close())
	}
	pid, err := trial.Start(func(attr *syscall.SysProcAttr) (int, error) {
		return syscall.ForkExec(program, []string{"true"}, &syscall.ProcAttr{Sys: attr})
	})
	if err == nil {
		var status unix.WaitStatus
		_, err = unix.Wait4(pid, &status, 0, nil)
	}
	return errors.Join(err, CloseEmptied(trial))
}

// Usage is one measurement of a running attempt.
type Usage struct {
	// Memory is in bytes that cannot be reclaimed at once. The final measurement holds the best estimate of the peak.
	Memory int64
	// CPU is the time used since the start.
	CPU time.Duration
	// OOM reports that the memory limit was exceeded: something was, or must now be, killed for it.
	OOM bool
}

// Enclosure holds the processes of one attempt.
type Enclosure interface {
	// Start runs fork such that the child is inside before its first instruction. It returns what fork returns.
	Start(fork func(attr *syscall.SysProcAttr) (int, error)) (int, error)
	// Measure is called at short intervals while the command runs, and with final set after it has ended.
	Measure(final bool) Usage
	// PIDs lists the processes inside; the watchdog has no list.
	PIDs() []int
	// Close removes what was made for the attempt. It fails while a process is inside.
	Close() error
}

// Enclose makes an enclosure. name must be unique among the attempts on this machine; a limit of 0 means none.
func (l Limits) Enclose(name string, memoryMB, millicores int64) (Enclosure, error) {
	switch l.Mode {
	case ModeCgroup2:
		return newCgroup2(l, name, memoryMB, millicores)
	case ModeCgroup1:
		return newCgroup1(l, name, memoryMB, millicores)
	case ModeWatchdog:
		return NewWatchdog(memoryMB), nil
	default:
		return nil, fmt.Errorf("unknown mode %q", l.Mode)
	}
}

// closePatience bounds how long the kernel may take to let an emptied cgroup be removed.
const closePatience = time.Second

// CloseEmptied closes an enclosure whose processes are dead.
func CloseEmptied(e Enclosure) error {
	retry := time.NewTicker(2 * time.Millisecond)
	defer retry.Stop()
	for deadline := time.Now().Add(closePatience); ; <-retry.C {
		err := e.Close()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// Restore makes the parents again after RemoveParents.
func (l Limits) Restore() error {
	for _, path := range l.Parents {
		parent := cgroup(path)
		if err := parent.make(); err != nil {
			return err
		}
		if l.Mode != ModeCgroup2 {
			continue
		}
		if err := parent.delegate(controllerMemory); err != nil {
			return err
		}
		if err := parent.delegate(controllerCPU); err != nil && l.CPUQuota {
			return err
		}
	}
	return nil
}

// RemoveParents removes the parents unless attempts live in them.
func (l Limits) RemoveParents() {
	for _, parent := range l.Parents {
		_ = cgroup(parent).remove()
	}
}

// Names lists the attempts that have a cgroup, living or left behind.
func (l Limits) Names() []string {
	var names []string
	for _, parent := range l.Parents {
		entries, err := os.ReadDir(parent)
		if err != nil {
			continue
		}
		for _, entry := range entries {
			if entry.IsDir() && !slices.Contains(names, entry.Name()) {
				names = append(names, entry.Name())
			}
		}
	}
	return names
}

// PIDs lists the processes in an attempt's cgroups.
func (l Limits) PIDs(name string) []int {
	var pids []int
	for _, parent := range l.Parents {
		pids = append(pids, cgroup(filepath.Join(parent, name)).pids()...)
	}
	return pids
}

// Remove removes an attempt's cgroups, if there are any. It fails while a process is inside.
func (l Limits) Remove(name string) error {
	var errs []error
	for _, parent := range l.Parents {
		errs = append(errs, cgroup(filepath.Join(parent, name)).remove())
	}
	return errors.Join(errs...)
}
