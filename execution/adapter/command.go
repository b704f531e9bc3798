package adapter

import "github.com/stitchfix/flotilla-os/state"

// ContainerCommand is what a run's container executes: its command as a script of a login shell that prints each
// command (-x) and ends at the first that fails (-e). A run without a command is an empty script, which succeeds; the
// image's own entrypoint is never used (kubernetes.md, The Job).
func ContainerCommand(run state.Run) []string {
	script := ""
	if run.Command != nil {
		script = *run.Command
	}
	return []string{"bash", "-l", "-cex", script}
}
