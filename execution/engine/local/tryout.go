package local

import (
	"errors"
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sysProcAttr is what an enclosure may say about how its first process is made.
type sysProcAttr = syscall.SysProcAttr

// tryOut starts a process in a cgroup made for it, with a limit: the only proof that all rights are there.
func tryOut(limits Limits) error {
	spec := Spec{MemoryLimitMB: 64, CPULimitMillicores: 1000}
	trial, err := limits.enclose(fmt.Sprintf("trial-%d", selfPID()), spec)
	if err != nil {
		return err
	}
	program, err := exec.LookPath("true")
	if err != nil {
		return errors.Join(err, trial.close())
	}
	pid, err := trial.start(func(attr *sysProcAttr) (int, error) {
		return syscall.ForkExec(program, []string{"true"}, &syscall.ProcAttr{Sys: attr})
	})
	if err == nil {
		var status unix.WaitStatus
		_, err = unix.Wait4(pid, &status, 0, nil)
	}
	return errors.Join(err, removePatiently(trial))
}

// removePatience is how long an emptied cgroup may take until the kernel lets it be removed.
const removePatience = time.Second

// removePatiently closes an enclosure whose processes are dead.
func removePatiently(e enclosure) error {
	retry := time.NewTicker(2 * time.Millisecond)
	defer retry.Stop()
	for deadline := time.Now().Add(removePatience); ; <-retry.C {
		err := e.close()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
