package local

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ticksPerSecond is the unit of the times in /proc/<pid>/stat; Linux fixes it at 100 for user space (proc_pid_stat(5)).
const ticksPerSecond = 100

func selfPID() int { return os.Getpid() }

// procStat is the part of /proc/<pid>/stat that we use.
type procStat struct {
	state   byte
	ppid    int
	session int
	// cpu includes the time of children that were waited for.
	cpu        time.Duration
	startTicks int64
}

// dead: nothing of the process runs any more; it only waits to be reaped.
func (s procStat) dead() bool { return s.state == 'Z' || s.state == 'X' }

func readStat(pid int) (procStat, error) {
	body, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return procStat{}, err
	}
	return parseStat(body)
}

// parseStat reads the fields behind the command's name, which may itself hold spaces and brackets.
func parseStat(body []byte) (procStat, error) {
	end := bytes.LastIndexByte(body, ')')
	if end < 0 {
		return procStat{}, errors.New("malformed stat of a process")
	}
	fields := strings.Fields(string(body[end+1:]))
	const last = 19 // starttime, field 22 of the page; the first behind the name is field 3
	if len(fields) <= last {
		return procStat{}, errors.New("malformed stat of a process")
	}
	number := func(field int) int64 {
		n, _ := strconv.ParseInt(fields[field], 10, 64)
		return n
	}
	ticks := number(11) + number(12) + number(13) + number(14)
	return procStat{
		state: fields[0][0], ppid: int(number(1)), session: int(number(3)),
		cpu: time.Duration(ticks) * time.Second / ticksPerSecond, startTicks: number(last),
	}, nil
}

// bootID changes with every boot of the machine.
var bootID = sync.OnceValues(func() (string, error) {
	body, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(body)), err
})

// descendants lists the processes below root, not root itself. A subreaper's list holds what its children left behind.
func descendants(root int) []int {
	var found []int
	for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
		children := childrenOf(queue[0])
		found = append(found, children...)
		queue = append(queue, children...)
	}
	return found
}

// childrenOf uses the kernel's list where it is configured, else the parent of every process.
func childrenOf(pid int) []int {
	tasks, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task", "*", "children"))
	if err != nil || len(tasks) == 0 {
		return childrenByScan(pid)
	}
	var children []int
	for _, task := range tasks {
		body, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		children = append(children, parsePIDs(body)...)
	}
	return children
}

func childrenByScan(parent int) []int {
	var children []int
	for _, pid := range allPIDs() {
		if stat, err := readStat(pid); err == nil && stat.ppid == parent {
			children = append(children, pid)
		}
	}
	return children
}

func allPIDs() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func parsePIDs(body []byte) []int {
	var pids []int
	for _, field := range strings.Fields(string(body)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// residentBytes is the resident set of a process, shared pages counted in full.
func residentBytes(pid int) int64 {
	body, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "statm"))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(body))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// proportionalBytes is the resident set of a process with each shared page divided among those who share it; the plain
// resident set where the kernel does not tell.
func proportionalBytes(pid int) int64 {
	body, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "smaps_rollup"))
	if err != nil {
		return residentBytes(pid)
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return kib * 1024
		}
	}
	return residentBytes(pid)
}

// hasVariable says whether a process was started with an environment entry.
func hasVariable(pid int, entry string) bool {
	body, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	return err == nil && bytes.Contains(append([]byte{0}, body...), append(append([]byte{0}, entry...), 0))
}

// sendSignal to a process that may have ended already.
func sendSignal(pid int, signal unix.Signal) error {
	if err := unix.Kill(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signalling process %d: %w", pid, err)
	}
	return nil
}
