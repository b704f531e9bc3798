package limits

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cgroup1 keeps one attempt in a cgroup per controller.
type cgroup1 struct {
	groups  map[string]cgroup // by controller; cpu and cpuacct may be missing
	highest Usage
}

// probeCgroup1 makes the parents of the attempts' cgroups and tries one out.
func probeCgroup1(cfg ProbeConfig) (Limits, error) {
	limits := Limits{Mode: ModeCgroup1, Parents: map[string]string{}}
	for _, controller := range []string{controllerMemory, controllerCPU, controllerCPUAcct} {
		parent, _, err := ownCgroup(cfg.Root, controller)
		// A server that was itself started by a run must not nest deeper with each start.
		if err == nil && filepath.Base(parent) != cfg.Name {
			parent = filepath.Join(parent, cfg.Name)
		}
		if err == nil {
			err = cgroup(parent).make()
		}
		if err == nil {
			limits.Parents[controller] = parent
		} else if controller == controllerMemory {
			return Limits{}, err
		}
	}
	if parent, ok := limits.Parents[controllerCPU]; ok {
		limits.CPUQuota = cgroup(parent).has("cpu.cfs_quota_us")
	}
	return limits, cfg.trial(limits)
}

// newCgroup1 makes the attempt's cgroups and sets its limits.
func newCgroup1(limits Limits, name string, memoryMB, millicores int64) (*cgroup1, error) {
	c := &cgroup1{groups: map[string]cgroup{}}
	for controller, parent := range limits.Parents {
		group := cgroup(filepath.Join(parent, name))
		if err := group.make(); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.groups[controller] = group
	}
	var err error
	if memory := c.groups[controllerMemory]; memoryMB > 0 {
		err = memory.setNumber("memory.limit_in_bytes", memoryMB*Megabyte)
		// Memory and swap together. The kernel has the file only if it accounts swap.
		if swap := "memory.memsw.limit_in_bytes"; err == nil && memory.has(swap) {
			err = memory.setNumber(swap, memoryMB*Megabyte)
		}
	}
	if cpu := c.groups[controllerCPU]; err == nil && millicores > 0 && limits.CPUQuota {
		err = cpu.setNumber("cpu.cfs_period_us", cpuPeriod)
		if err == nil {
			err = cpu.setNumber("cpu.cfs_quota_us", cpuQuota(millicores))
		}
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Start moves one thread of ours inside, forks from it, and moves it back: a child begins life in the cgroups of the
// thread that forks it. Memory stays charged to the thread's process, so nothing of the shim is counted, and no
// instruction of the command runs outside.
func (c *cgroup1) Start(fork func(*syscall.SysProcAttr) (int, error)) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread := int64(unix.Gettid())
	var homes []cgroup
	for controller := range c.groups {
		home, _, err := ownCgroup("/", controller)
		if err != nil {
			return 0, err
		}
		homes = append(homes, cgroup(home))
	}
	defer func() {
		for _, home := range homes {
			_ = home.setNumber("tasks", thread)
		}
	}()
	for _, group := range c.groups {
		if err := group.setNumber("tasks", thread); err != nil {
			return 0, fmt.Errorf("moving a thread: %w", err)
		}
	}
	return fork(&syscall.SysProcAttr{})
}

func (c *cgroup1) Measure(final bool) Usage {
	memory, seen := c.groups[controllerMemory], &c.highest
	inactive := memory.keyed("memory.stat", "total_inactive_file")
	seen.Memory = max(seen.Memory, memory.number("memory.usage_in_bytes")-inactive)
	seen.OOM = seen.OOM || memory.keyed("memory.oom_control", "oom_kill") > 0
	if cpuacct, ok := c.groups[controllerCPUAcct]; ok {
		seen.CPU = time.Duration(cpuacct.number("cpuacct.usage"))
	} else {
		seen.CPU = max(seen.CPU, treeCPU(Descendants(os.Getpid())))
	}
	if final {
		cache := inactive + memory.keyed("memory.stat", "total_active_file")
		seen.Memory = peakEstimate(seen.Memory, memory.number("memory.max_usage_in_bytes"), cache)
	}
	return *seen
}

func (c *cgroup1) PIDs() []int { return c.groups[controllerMemory].pids() }

func (c *cgroup1) Close() error {
	var errs []error
	for _, group := range c.groups {
		errs = append(errs, group.remove())
	}
	return errors.Join(errs...)
}
