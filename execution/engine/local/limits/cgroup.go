package limits

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// cpuPeriod is the kernel's default period of CPU quotas, in microseconds.
	cpuPeriod = 100_000
	// minCPUQuota is the least quota that the kernel accepts, in microseconds.
	minCPUQuota = 1_000
)

// Controllers that an attempt uses. Only memory is indispensable.
const (
	controllerMemory  = "memory"
	controllerCPU     = "cpu"
	controllerCPUAcct = "cpuacct" // v1 only
)

// errNoController is returned if the machine does not offer this kind of cgroup.
var errNoController = errors.New("not mounted")

// cgroup is the folder of one cgroup of either version.
type cgroup string

func (c cgroup) set(name string, value string) error {
	if err := os.WriteFile(filepath.Join(string(c), name), []byte(value), 0o600); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	return nil
}

func (c cgroup) setNumber(name string, value int64) error {
	return c.set(name, strconv.FormatInt(value, 10))
}

func (c cgroup) has(name string) bool {
	_, err := os.Stat(filepath.Join(string(c), name))
	return err == nil
}

// text returns the content of a file, empty if it cannot be read.
func (c cgroup) text(name string) string {
	body, _ := os.ReadFile(filepath.Join(string(c), name))
	return string(bytes.TrimSpace(body))
}

// number returns the content of a file, 0 if it cannot be read.
func (c cgroup) number(name string) int64 {
	n, _ := strconv.ParseInt(c.text(name), 10, 64)
	return n
}

// keyed returns one entry of a "key value" file, 0 if there is none.
func (c cgroup) keyed(name, key string) int64 {
	for line := range strings.Lines(c.text(name)) {
		if field, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && field == key {
			n, _ := strconv.ParseInt(value, 10, 64)
			return n
		}
	}
	return 0
}

func (c cgroup) pids() []int { return parsePIDs(c.text("cgroup.procs")) }

// make creates the cgroup unless it exists.
func (c cgroup) make() error {
	if err := os.Mkdir(string(c), 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cgroup: %w", err)
	}
	return nil
}

// remove fails with EBUSY while a process is inside.
func (c cgroup) remove() error {
	if err := unix.Rmdir(string(c)); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cgroup: removing %s: %w", string(c), err)
	}
	return nil
}

// cpuQuota returns the quota in microseconds of each period.
func cpuQuota(millicores int64) int64 { return max(minCPUQuota, millicores*cpuPeriod/1000) }

// peakEstimate returns the most memory that could not be reclaimed: the highest measurement, or the kernel's recorded
// peak less the page cache left at the end, whichever is more. Only the record sees what happened between measurements.
func peakEstimate(measured, recorded, cache int64) int64 {
	if recorded > cache {
		return max(measured, recorded-cache)
	}
	return measured
}

// ownCgroup returns the calling thread's cgroup in the tree of a v1 controller, or of v2 if controller is empty, and the
// mount point of that tree. It asks for the thread because another one may be away to start a process (cgroup1.Start).
func ownCgroup(root, controller string) (own, mountPoint string, err error) {
	shown, mountPoint, err := findMount(root, controller)
	if err != nil {
		return "", "", err
	}
	body, err := os.ReadFile(filepath.Join(root, "proc/thread-self/cgroup"))
	if err != nil {
		return "", "", fmt.Errorf("reading our own cgroup: %w", err)
	}
	for line := range strings.Lines(string(body)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || !slices.Contains(strings.Split(parts[1], ","), controller) {
			continue
		}
		// Inside a container the mount may show a part of the tree that does not hold the cgroup: then its top is ours.
		rel, err := filepath.Rel(shown, parts[2])
		if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			return mountPoint, mountPoint, nil
		}
		return filepath.Join(mountPoint, rel), mountPoint, nil
	}
	return "", "", errNoController
}

// mountEscapes undoes the octal escapes of mountinfo.
var mountEscapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// findMount reads /proc/self/mountinfo (proc_pid_mountinfo(5)) and returns which cgroup the mount of a tree shows, "/"
// outside containers, and its mount point.
func findMount(root, controller string) (shown, mountPoint string, err error) {
	body, err := os.ReadFile(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return "", "", fmt.Errorf("reading the mounts: %w", err)
	}
	for line := range strings.Lines(string(body)) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		fields, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(tail) < 3 {
			continue
		}
		v2 := controller == "" && tail[0] == "cgroup2"
		v1 := controller != "" && tail[0] == "cgroup" && slices.Contains(strings.Split(tail[2], ","), controller)
		if v1 || v2 {
			return mountEscapes.Replace(fields[3]), filepath.Join(root, mountEscapes.Replace(fields[4])), nil
		}
	}
	return "", "", errNoController
}

// OwnMemoryLimit returns the smallest memory limit, in bytes, of the cgroups that this process is in: a container is
// smaller than its machine. It returns the largest number if there is no limit. root is "/" outside tests.
func OwnMemoryLimit(root string) uint64 {
	least := ^uint64(0)
	for controller, file := range map[string]string{"": "memory.max", controllerMemory: "memory.limit_in_bytes"} {
		own, top, err := ownCgroup(root, controller)
		if err != nil {
			continue
		}
		for dir := own; len(dir) >= len(top); dir = filepath.Dir(dir) {
			if limit, err := strconv.ParseUint(cgroup(dir).text(file), 10, 64); err == nil {
				least = min(least, limit)
			}
		}
	}
	return least
}
