package local

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// controllers of cgroup v1 that an attempt uses; only the first is indispensable.
const (
	controllerMemory  = "memory"
	controllerCPU     = "cpu"
	controllerCPUAcct = "cpuacct"
)

// cgroup1 keeps one attempt in a cgroup per controller.
type cgroup1 struct {
	memory, cpu, cpuacct cgroup // cpu and cpuacct may be empty: not to be had
	seen                 usage
}

// probeCgroup1 makes the parents of the attempts' cgroups and tries one out.
func probeCgroup1(cfg ProbeConfig) (Limits, error) {
	limits := Limits{Mode: ModeCgroup1, Parents: map[string]string{}}
	for _, controller := range []string{controllerMemory, controllerCPU, controllerCPUAcct} {
		parent, err := parentCgroup1(cfg, controller)
		if err == nil {
			limits.Parents[controller] = string(parent)
		} else if controller == controllerMemory {
			return Limits{}, err
		}
	}
	if parent, ok := limits.Parents[controllerCPU]; ok {
		limits.CPUQuota = cgroup(parent).has("cpu.cfs_quota_us")
	}
	return limits, cfg.trial(limits)
}

func parentCgroup1(cfg ProbeConfig, controller string) (cgroup, error) {
	mount, err := findMount(cfg.Root, controller)
	if err != nil {
		return "", err
	}
	own, err := ownCgroup(cfg.Root, controller, mount)
	if err != nil {
		return "", err
	}
	parent := cgroup(filepath.Join(own, cfg.Name))
	// A server that was itself started by a run, or by an attempt's command, must not nest deeper with each start.
	if filepath.Base(own) == cfg.Name {
		parent = cgroup(own)
	}
	return parent, parent.make()
}

// newCgroup1 makes the attempt's cgroups and sets its limits.
func newCgroup1(limits Limits, name string, spec Spec) (*cgroup1, error) {
	c := &cgroup1{}
	for controller, into := range c.byController() {
		parent, ok := limits.Parents[controller]
		if !ok {
			continue
		}
		*into = cgroup(filepath.Join(parent, name))
		if err := into.make(); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	if err := c.limit(limits, spec); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *cgroup1) limit(limits Limits, spec Spec) error {
	if spec.MemoryLimitMB > 0 {
		bytes := spec.MemoryLimitMB * megabyte
		if err := c.memory.setNumber("memory.limit_in_bytes", bytes); err != nil {
			return err
		}
		// Memory and swap together: the kernel has the file only where it accounts swap.
		if swap := "memory.memsw.limit_in_bytes"; c.memory.has(swap) {
			if err := c.memory.setNumber(swap, bytes); err != nil {
				return err
			}
		}
	}
	if spec.CPULimitMillicores > 0 && limits.CPUQuota {
		if err := c.cpu.setNumber("cpu.cfs_period_us", cpuPeriod); err != nil {
			return err
		}
		return c.cpu.setNumber("cpu.cfs_quota_us", cpuQuota(spec.CPULimitMillicores))
	}
	return nil
}

func (c *cgroup1) byController() map[string]*cgroup {
	return map[string]*cgroup{controllerMemory: &c.memory, controllerCPU: &c.cpu, controllerCPUAcct: &c.cpuacct}
}

// start moves one thread of ours inside, forks from it, and moves it back: a child begins life in the cgroups of the
// thread that forks it. Memory stays charged to us as long as the thread is ours, so nothing of the shim is counted, and
// no instruction of the command runs outside.
func (c *cgroup1) start(fork func(*sysProcAttr) (int, error)) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	homes, err := c.homes()
	if err != nil {
		return 0, err
	}
	defer func() {
		for _, home := range homes {
			_ = home.setNumber("tasks", int64(unix.Gettid()))
		}
	}()
	for _, inside := range c.byController() {
		if *inside == "" {
			continue
		}
		if err := inside.setNumber("tasks", int64(unix.Gettid())); err != nil {
			return 0, fmt.Errorf("moving a thread: %w", err)
		}
	}
	return fork(&sysProcAttr{})
}

// homes are the cgroups that the calling thread lives in.
func (c *cgroup1) homes() ([]cgroup, error) {
	var homes []cgroup
	for controller, inside := range c.byController() {
		if *inside == "" {
			continue
		}
		mount, err := findMount("/", controller)
		if err != nil {
			return nil, err
		}
		home, err := ownCgroup("/", controller, mount)
		if err != nil {
			return nil, err
		}
		homes = append(homes, cgroup(home))
	}
	return homes, nil
}

func (c *cgroup1) measure(final bool) usage {
	inactive := c.memory.keyed("memory.stat", "total_inactive_file")
	if used := c.memory.number("memory.usage_in_bytes"); used > inactive {
		c.seen.memory = max(c.seen.memory, used-inactive)
	}
	c.seen.oom = c.seen.oom || c.memory.keyed("memory.oom_control", "oom_kill") > 0
	if c.cpuacct != "" {
		c.seen.cpu = time.Duration(c.cpuacct.number("cpuacct.usage"))
	} else {
		c.seen.cpu = max(c.seen.cpu, treeCPU(descendants(selfPID())))
	}
	if final {
		cache := inactive + c.memory.keyed("memory.stat", "total_active_file")
		c.seen.memory = peakEstimate(c.seen.memory, c.memory.number("memory.max_usage_in_bytes"), cache)
	}
	return c.seen
}

func (c *cgroup1) pids() []int { return c.memory.pids() }

func (c *cgroup1) close() error {
	var errs []error
	for _, inside := range c.byController() {
		if *inside != "" {
			errs = append(errs, inside.remove())
		}
	}
	return errors.Join(errs...)
}
