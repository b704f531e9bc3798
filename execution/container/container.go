// Package container decides what a run's container executes, and with which environment. Every kind of cluster uses it,
// so that a run is the same program wherever it goes. How a container is started is the engines' part.
package container

import (
	"strings"

	"github.com/stitchfix/flotilla-os/state"
)

// Command returns the container's command line: the run's command as the script of a login shell that prints each
// command (-x) and ends at the first that fails (-e). A run without a command is an empty script, which succeeds; the
// image's own entrypoint is never used (kubernetes.md, The Job).
func Command(run state.Run) []string {
	script := ""
	if run.Command != nil {
		script = *run.Command
	}
	return []string{"bash", "-l", "-cex", script}
}

// Env returns the container's environment: the executable's, with the run's own variables over it. Names lose a leading
// $ and all spaces, as users write them. A name that is then empty, or that no process can have, is left out. Variables
// come in the order of their first mention, so that the same run always makes the same container.
func Env(executable state.Executable, run state.Run) state.EnvList {
	var merged state.EnvList
	index := map[string]int{} // name → position in merged
	// Within one list a later variable wins, but one whose name had to be cleaned never replaces one that was written
	// clean: "$FLOTILLA_RUN_ID" must not replace FLOTILLA_RUN_ID.
	overlay := func(vars state.EnvList) {
		clean := map[string]bool{}
		for _, v := range vars {
			name := strings.TrimPrefix(strings.ReplaceAll(v.Name, " ", ""), "$")
			if name == "" || strings.ContainsAny(name, "=\x00") || name != v.Name && clean[name] {
				continue
			}
			clean[name] = clean[name] || name == v.Name
			if at, exists := index[name]; exists {
				merged[at].Value = v.Value
				continue
			}
			index[name] = len(merged)
			merged = append(merged, state.EnvVar{Name: name, Value: v.Value})
		}
	}
	if executable != nil {
		overlay(executable.GetExecutableResources().Env)
	}
	overlay(run.Env)
	return merged
}
