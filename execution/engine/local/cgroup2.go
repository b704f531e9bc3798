package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// serverLeaf is the cgroup that the server moves itself to: a cgroup v2 that hands controllers to its children may hold
// no process of its own.
const serverLeaf = "flotilla-server"

// cgroup2 keeps one attempt in one cgroup of the unified tree.
type cgroup2 struct {
	cgroup
	seen usage
}

// probeCgroup2 looks for a place where we may make cgroups with a memory controller: below our own cgroup, else below
// one of its ancestors (a delegated systemd slice, or the top of the tree for root).
func probeCgroup2(cfg ProbeConfig) (Limits, error) {
	mount, err := findMount(cfg.Root, "")
	if err != nil {
		return Limits{}, err
	}
	own, err := ownCgroup(cfg.Root, "", mount)
	if err != nil {
		return Limits{}, err
	}
	var failures []error
	for place := own; ; place = filepath.Dir(place) {
		limits, err := probePlace2(cfg, cgroup(place), place == own && filepath.Base(own) != serverLeaf)
		if err == nil {
			return limits, nil
		}
		failures = append(failures, err)
		if place == mount.point || len(place) <= len(mount.point) {
			return Limits{}, errors.Join(failures...)
		}
	}
}

// probePlace2 tries one place; own says that we live there and must move to a leaf.
func probePlace2(cfg ProbeConfig, place cgroup, own bool) (Limits, error) {
	if !slices.Contains(strings.Fields(string(place.text("cgroup.controllers"))), controllerMemory) {
		return Limits{}, fmt.Errorf("%s: the memory controller is not delegated", string(place))
	}
	if own {
		if err := place.moveTo(serverLeaf); err != nil {
			return Limits{}, err
		}
	}
	parent := cgroup(filepath.Join(string(place), cfg.Name))
	limits := Limits{Mode: ModeCgroup2, Parents: map[string]string{"": string(parent)}}
	err := place.hand(controllerMemory)
	if err == nil {
		err = parent.make()
	}
	if err == nil {
		err = parent.hand(controllerMemory)
	}
	if err == nil {
		limits.CPUQuota = place.hand(controllerCPU) == nil && parent.hand(controllerCPU) == nil
		err = cfg.trial(limits)
	}
	if err != nil && own {
		err = errors.Join(err, place.set("cgroup.procs", "0"), cgroup(filepath.Join(string(place), serverLeaf)).remove())
	}
	return limits, err
}

// moveTo moves this process to a child cgroup.
func (c cgroup) moveTo(child string) error {
	leaf := cgroup(filepath.Join(string(c), child))
	if err := leaf.make(); err != nil {
		return err
	}
	return leaf.set("cgroup.procs", "0")
}

// hand gives a controller to the children, unless they have it.
func (c cgroup) hand(controller string) error {
	if slices.Contains(strings.Fields(string(c.text("cgroup.subtree_control"))), controller) {
		return nil
	}
	return c.set("cgroup.subtree_control", "+"+controller)
}

func newCgroup2(limits Limits, name string, spec Spec) (*cgroup2, error) {
	c := &cgroup2{cgroup: cgroup(filepath.Join(limits.Parents[""], name))}
	if err := c.make(); err != nil {
		return nil, err
	}
	if err := c.limit(limits, spec); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *cgroup2) limit(limits Limits, spec Spec) error {
	if spec.MemoryLimitMB > 0 {
		if err := c.setNumber("memory.max", spec.MemoryLimitMB*megabyte); err != nil {
			return err
		}
		if c.has("memory.swap.max") {
			if err := c.set("memory.swap.max", "0"); err != nil {
				return err
			}
		}
		if err := c.set("memory.oom.group", "1"); err != nil {
			return err
		}
	}
	if spec.CPULimitMillicores > 0 && limits.CPUQuota {
		return c.set("cpu.max", fmt.Sprintf("%d %d", cpuQuota(spec.CPULimitMillicores), cpuPeriod))
	}
	return nil
}

// start has the kernel make the child inside (CLONE_INTO_CGROUP, Linux 5.7).
func (c *cgroup2) start(fork func(*sysProcAttr) (int, error)) (int, error) {
	dir, err := os.Open(string(c.cgroup))
	if err != nil {
		return 0, fmt.Errorf("cgroup: %w", err)
	}
	defer func() { _ = dir.Close() }()
	return fork(&sysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())})
}

func (c *cgroup2) measure(final bool) usage {
	inactive := c.keyed("memory.stat", "inactive_file")
	if used := c.number("memory.current"); used > inactive {
		c.seen.memory = max(c.seen.memory, used-inactive)
	}
	c.seen.oom = c.seen.oom || c.keyed("memory.events", "oom_kill") > 0
	c.seen.cpu = time.Duration(c.keyed("cpu.stat", "usage_usec")) * time.Microsecond
	if final {
		cache := inactive + c.keyed("memory.stat", "active_file")
		c.seen.memory = peakEstimate(c.seen.memory, c.number("memory.peak"), cache)
	}
	return c.seen
}

// close removes the cgroup; the kernel empties it a moment after its last process was reaped.
func (c *cgroup2) close() error {
	if c.has("cgroup.kill") {
		_ = c.set("cgroup.kill", "1")
	}
	return c.remove()
}
