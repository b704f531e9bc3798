package shim

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/stitchfix/flotilla-os/execution/engine/local/limits"
)

// attemptVariable marks every process of an attempt, so that those that outlive a dead shim can be found.
const attemptVariable = "FLOTILLA_ATTEMPT_FOLDER"

// passedOn are the variables of the server that a run sees. The rest stays private: it holds passwords.
var passedOn = []string{"PATH", "LANG", "TZ", "TMPDIR"}

// clientVariables are what a container runtime's client needs of the server's environment: where its configuration,
// its credentials and its daemon are.
var clientVariables = []string{"HOME", "XDG_RUNTIME_DIR", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT", "CONTAINER_HOST", "CONTAINERS_CONF"}

// inherited returns the NAME=value entries of this process's environment for the names given.
func inherited(names ...string) []string {
	var entries []string
	for _, name := range names {
		if value, ok := os.LookupEnv(name); ok {
			entries = append(entries, name+"="+value)
		}
	}
	return entries
}

// environment returns the variables of the attempt's first process. A container's client gets its own and the run's,
// which it passes on. A command gets the run's over what a login on this machine would have, with the work folder as
// HOME; the marker of the attempt always wins.
func (f Folder) environment(spec Spec) []string {
	if spec.Container != nil {
		entries := inherited(slices.Concat(passedOn, clientVariables)...)
		for _, entry := range spec.Env {
			if name, _, _ := strings.Cut(entry, "="); !ownedByClient(name) {
				entries = append(entries, entry)
			}
		}
		return entries
	}
	taken := map[string]bool{}
	entries := []string{attemptVariable + "=" + string(f)}
	for _, entry := range spec.Env {
		if name, _, _ := strings.Cut(entry, "="); name != attemptVariable {
			taken[name] = true
			entries = append(entries, entry)
		}
	}
	for _, entry := range append(inherited(passedOn...), "HOME="+f.WorkDir()) {
		if name, _, _ := strings.Cut(entry, "="); !taken[name] {
			entries = append(entries, entry)
		}
	}
	return entries
}

func ownedByClient(name string) bool {
	return slices.Contains(clientVariables, name) || slices.Contains(passedOn, name)
}

// Container is the container that an attempt is executed in.
type Container struct {
	// Runtime is docker, podman, or a path to one of them.
	Runtime string `json:"runtime"`
	Name    string `json:"name"`
}

// InContainer returns a spec that executes the command in a container with the same limits. The runtime does not remove
// the container itself (--rm), because its record says whether it was killed for memory; the shim removes it.
func (s Spec) InContainer(runtime, image string) Spec {
	s.Container = &Container{Runtime: runtime, Name: "flotilla-" + s.Name()}
	argv := []string{runtime, "run", "--name", s.Container.Name, "--entrypoint", s.Argv[0]}
	if s.MemoryLimitMB > 0 {
		bytes := strconv.FormatInt(s.MemoryLimitMB*limits.Megabyte, 10) + "b"
		argv = append(argv, "--memory", bytes, "--memory-swap", bytes)
	}
	if s.CPULimitMillicores > 0 {
		argv = append(argv, "--cpus", strconv.FormatFloat(float64(s.CPULimitMillicores)/1000, 'f', 3, 64))
	}
	for _, entry := range s.Env {
		name, _, _ := strings.Cut(entry, "=")
		if ownedByClient(name) {
			argv = append(argv, "--env", entry)
		} else {
			argv = append(argv, "--env", name) // the client takes the value from its environment: the process list shows none
		}
	}
	s.Argv = append(append(argv, image), s.Argv[1:]...)
	s.Limits = limits.Limits{Mode: limits.ModeWatchdog}
	return s
}

// killedForMemory asks the runtime.
func (c *Container) killedForMemory(ctx context.Context) (bool, error) {
	output, err := exec.CommandContext(ctx, c.Runtime, "inspect", "--format", "{{.State.OOMKilled}}", c.Name).Output()
	if err != nil {
		return false, fmt.Errorf("inspecting container %s: %w", c.Name, err)
	}
	return strings.TrimSpace(string(output)) == "true", nil
}

// remove kills and removes the container. A nil Container has nothing to remove.
func (c *Container) remove(ctx context.Context) error {
	if c == nil {
		return nil
	}
	if output, err := exec.CommandContext(ctx, c.Runtime, "rm", "--force", c.Name).CombinedOutput(); err != nil {
		return fmt.Errorf("removing container %s: %w: %s", c.Name, err, output)
	}
	return nil
}
