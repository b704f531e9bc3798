package local

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// noRuntime is the configuration's word for running commands on the machine itself.
const noRuntime = "none"

// clientVariables are what a container runtime's client needs of the server's environment: where its configuration,
// its credentials and its daemon are.
var clientVariables = []string{"HOME", "XDG_RUNTIME_DIR", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT", "CONTAINER_HOST", "CONTAINERS_CONF"}

// Container is the container that an attempt is executed in.
type Container struct {
	// Runtime is docker, podman, or a path to one of them.
	Runtime string `json:"runtime"`
	Name    string `json:"name"`
}

// inContainer makes the spec's command one of a container runtime, with the same limits. The container is not removed
// by the runtime itself (--rm), because its record says whether it was killed for memory; the shim removes it.
func (s Spec) inContainer(runtime, image string) Spec {
	s.Container = &Container{Runtime: runtime, Name: "flotilla-" + enclosureName(s.RunID, s.Attempt)}
	argv := []string{runtime, "run", "--name", s.Container.Name, "--entrypoint", s.Argv[0]}
	if s.MemoryLimitMB > 0 {
		bytes := strconv.FormatInt(s.MemoryLimitMB*megabyte, 10) + "b"
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
			argv = append(argv, "--env", name) // its value goes by the client's environment, where no one sees it
		}
	}
	s.Argv = append(append(argv, image), s.Argv[1:]...)
	s.Limits = Limits{Mode: ModeWatchdog}
	return s
}

func ownedByClient(name string) bool {
	return slices.Contains(clientVariables, name) || slices.Contains(passedOn, name)
}

// clientEnvironment is the client's own variables and the run's, which it passes on.
func clientEnvironment(run []string) []string {
	var entries []string
	for _, name := range slices.Concat(passedOn, clientVariables) {
		if value, ok := os.LookupEnv(name); ok {
			entries = append(entries, name+"="+value)
		}
	}
	for _, entry := range run {
		if name, _, _ := strings.Cut(entry, "="); !ownedByClient(name) {
			entries = append(entries, entry)
		}
	}
	return entries
}

// killedForMemory asks the runtime.
func (c *Container) killedForMemory(ctx context.Context) (bool, error) {
	output, err := exec.CommandContext(ctx, c.Runtime, "inspect", "--format", "{{.State.OOMKilled}}", c.Name).Output()
	if err != nil {
		return false, fmt.Errorf("inspecting container %s: %w", c.Name, err)
	}
	return strings.TrimSpace(string(output)) == "true", nil
}

// remove kills and removes the container; of a nil Container there is nothing to remove.
func (c *Container) remove(ctx context.Context) error {
	if c == nil {
		return nil
	}
	if output, err := exec.CommandContext(ctx, c.Runtime, "rm", "--force", c.Name).CombinedOutput(); err != nil {
		return fmt.Errorf("removing container %s: %w: %s", c.Name, err, output)
	}
	return nil
}
