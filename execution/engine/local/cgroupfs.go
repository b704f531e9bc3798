package local

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// megabyte is the unit of memory everywhere in Flotilla: Kubernetes' "M".
const megabyte = 1_000_000

// cpuPeriod in microseconds, the kernel's default for quotas.
const cpuPeriod = 100_000

// minCPUQuota in microseconds is the least that the kernel takes.
const minCPUQuota = 1_000

// cgroup is the folder of one cgroup of either version.
type cgroup string

func (c cgroup) set(name string, value string) error {
	file, err := os.OpenFile(filepath.Join(string(c), name), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	_, err = file.WriteString(value)
	if err := errors.Join(err, file.Close()); err != nil {
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

// text is empty where the file cannot be read.
func (c cgroup) text(name string) []byte {
	body, _ := os.ReadFile(filepath.Join(string(c), name))
	return bytes.TrimSpace(body)
}

// number is 0 where the file cannot be read.
func (c cgroup) number(name string) int64 {
	n, _ := strconv.ParseInt(string(c.text(name)), 10, 64)
	return n
}

// keyed reads one entry of a "key value" file; 0 where there is none.
func (c cgroup) keyed(name, key string) int64 {
	for line := range strings.Lines(string(c.text(name))) {
		if field, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && field == key {
			n, _ := strconv.ParseInt(value, 10, 64)
			return n
		}
	}
	return 0
}

func (c cgroup) pids() []int { return parsePIDs(c.text("cgroup.procs")) }

// make creates the cgroup; one that is there already is taken as it is.
func (c cgroup) make() error {
	if err := os.Mkdir(string(c), 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cgroup: %w", err)
	}
	return nil
}

// remove fails with EBUSY as long as a process is inside.
func (c cgroup) remove() error {
	if err := unix.Rmdir(string(c)); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cgroup: removing %s: %w", string(c), err)
	}
	return nil
}

// cpuQuota is the share of a period in microseconds.
func cpuQuota(millicores int64) int64 { return max(minCPUQuota, millicores*cpuPeriod/1000) }

// peakEstimate is the most memory that could not be reclaimed: what was seen, or the recorded peak less the page cache
// left at the end, whichever is more. A command that ends between two looks is seen by the second only.
func peakEstimate(seen, recorded, cache int64) int64 {
	if recorded > cache {
		return max(seen, recorded-cache)
	}
	return seen
}
