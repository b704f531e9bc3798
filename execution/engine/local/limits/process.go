package limits

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// ticksPerSecond is the unit of the times in /proc/<pid>/stat. Linux fixes it at 100 for user space (proc_pid_stat(5)).
const ticksPerSecond = 100

// Stat reads /proc/<pid>/stat.
func Stat(pid int) (procfs.ProcStat, error) {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return procfs.ProcStat{}, err
	}
	return process.Stat()
}

// Gone reports whether nothing of a process runs any more; it may still wait to be reaped.
func Gone(pid int) bool {
	stat, err := Stat(pid)
	return err != nil || stat.State == "Z" || stat.State == "X"
}

// Descendants lists the processes below root, not root itself. A subreaper's list holds what its children left behind.
func Descendants(root int) []int {
	var found []int
	for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
		children := childrenOf(queue[0])
		found = append(found, children...)
		queue = append(queue, children...)
	}
	return found
}

// childrenOf reads the kernel's list of children if it has one, else the parent of every process.
func childrenOf(pid int) []int {
	var children []int
	tasks, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "task", "*", "children"))
	if err != nil || len(tasks) == 0 {
		all, _ := procfs.AllProcs()
		for _, process := range all {
			if stat, err := process.Stat(); err == nil && stat.PPID == pid {
				children = append(children, process.PID)
			}
		}
		return children
	}
	for _, task := range tasks {
		body, _ := os.ReadFile(task) // empty if the thread has ended
		children = append(children, parsePIDs(string(body))...)
	}
	return children
}

func parsePIDs(text string) []int {
	var pids []int
	for _, field := range strings.Fields(text) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Signal sends a signal to a process, or to a group if pid is negative, that may have ended already.
func Signal(pid int, signal unix.Signal) error {
	if err := unix.Kill(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signalling process %d: %w", pid, err)
	}
	return nil
}
