//go:build faultpoints

package fault

import (
	"os"
	"syscall"
)

// Point kills this process, as SIGKILL would at this moment, where EnvVar names the point. It does not return then.
func Point(n Name) {
	if os.Getenv(EnvVar) != string(n) {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way
}
