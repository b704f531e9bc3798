package limits

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// serverLeaf is the cgroup that the server moves itself to: a cgroup v2 that delegates controllers to its children may
// hold no process of its own.
const serverLeaf = "flotilla-server"

// cgroup2 keeps one attempt in one cgroup of the unified tree.
type cgroup2 struct {
	cgroup
	highest Usage
}

// probeCgroup2 looks for a place in which cgroups with a memory controller can be made: below our own cgroup, else below
// one of its ancestors (a delegated systemd slice, or the top of the tree for root).
func probeCgroup2(cfg ProbeConfig) (Limits, error) {
	own, top, err := ownCgroup(cfg.Root, "")
	if err != nil {
		return Limits{}, err
	}
	var failures []error
	for place := own; ; place = filepath.Dir(place) {
		limits, err := probePlace(cfg, cgroup(place), place == own && filepath.Base(own) != serverLeaf)
		if err == nil {
			return limits, nil
		}
		failures = append(failures, err)
		if len(place) <= len(top) {
			return Limits{}, errors.Join(failures...)
		}
	}
}

// probePlace tries one place. own reports that this process lives there and must move to a leaf.
func probePlace(cfg ProbeConfig, place cgroup, own bool) (Limits, error) {
	if !slices.Contains(strings.Fields(place.text("cgroup.controllers")), controllerMemory) {
		return Limits{}, fmt.Errorf("%s: the memory controller is not delegated", string(place))
	}
	leaf := cgroup(filepath.Join(string(place), serverLeaf))
	if own {
		if err := leaf.make(); err != nil {
			return Limits{}, err
		}
		if err := leaf.set("cgroup.procs", "0"); err != nil {
			return Limits{}, err
		}
	}
	parent := cgroup(filepath.Join(string(place), cfg.Name))
	limits := Limits{Mode: ModeCgroup2, Parents: map[string]string{"": string(parent)}}
	err := place.delegate(controllerMemory)
	if err == nil {
		err = parent.make()
	}
	if err == nil {
		err = parent.delegate(controllerMemory)
	}
	if err == nil {
		limits.CPUQuota = place.delegate(controllerCPU) == nil && parent.delegate(controllerCPU) == nil
		err = cfg.trial(limits)
	}
	if err != nil && own {
		err = errors.Join(err, place.set("cgroup.procs", "0"), leaf.remove())
	}
	return limits, err
}

// delegate gives a controller to the children unless they have it.
func (c cgroup) delegate(controller string) error {
	if slices.Contains(strings.Fields(c.text("cgroup.subtree_control")), controller) {
		return nil
	}
	return c.set("cgroup.subtree_control", "+"+controller)
}

// newCgroup2 makes the attempt's cgroup and sets its limits.
func newCgroup2(limits Limits, name string, memoryMB, millicores int64) (*cgroup2, error) {
	c := &cgroup2{cgroup: cgroup(filepath.Join(limits.Parents[""], name))}
	if err := c.make(); err != nil {
		return nil, err
	}
	var errs []error
	if memoryMB > 0 {
		errs = append(errs, c.setNumber("memory.max", memoryMB*Megabyte), c.set("memory.oom.group", "1"))
		if c.has("memory.swap.max") {
			errs = append(errs, c.set("memory.swap.max", "0"))
		}
	}
	if millicores > 0 && limits.CPUQuota {
		errs = append(errs, c.set("cpu.max", fmt.Sprintf("%d %d", cpuQuota(millicores), cpuPeriod)))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Start has the kernel make the child inside (CLONE_INTO_CGROUP, Linux 5.7).
func (c *cgroup2) Start(fork func(*syscall.SysProcAttr) (int, error)) (int, error) {
	dir, err := os.Open(string(c.cgroup))
	if err != nil {
		return 0, fmt.Errorf("cgroup: %w", err)
	}
	defer func() { _ = dir.Close() }()
	return fork(&syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())})
}

func (c *cgroup2) Measure(final bool) Usage {
	seen := &c.highest
	inactive := c.keyed("memory.stat", "inactive_file")
	seen.Memory = max(seen.Memory, c.number("memory.current")-inactive)
	seen.OOM = seen.OOM || c.keyed("memory.events", "oom_kill") > 0
	seen.CPU = time.Duration(c.keyed("cpu.stat", "usage_usec")) * time.Microsecond
	if final {
		cache := inactive + c.keyed("memory.stat", "active_file")
		seen.Memory = peakEstimate(seen.Memory, c.number("memory.peak"), cache)
	}
	return *seen
}

func (c *cgroup2) PIDs() []int { return c.pids() }

// Close kills what is inside and removes the cgroup. The kernel empties it a moment after its last process was reaped.
func (c *cgroup2) Close() error {
	if c.has("cgroup.kill") {
		_ = c.set("cgroup.kill", "1")
	}
	return c.remove()
}
