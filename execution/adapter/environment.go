package adapter

import (
	"strings"

	"github.com/stitchfix/flotilla-os/state"
)

// ContainerEnv is the environment of a run's container: that of its executable, and the run's own over it. Names lose
// a leading $ and all spaces, as users write them; what has no name then, or one that no process can have, is left
// out. The order is that of first mention, so that the same run always makes the same container.
func ContainerEnv(executable state.Executable, run state.Run) state.EnvList {
	var merged environment
	merged.index = map[string]int{}
	if executable != nil {
		merged.overlay(executable.GetExecutableResources().Env)
	}
	merged.overlay(run.Env)
	return merged.list
}

type environment struct {
	list  state.EnvList
	index map[string]int // name → position in list
}

// overlay lays one list over what is there. Within the list a later entry wins, but one whose name had to be cleaned
// never wins over one that was written clean: "$FLOTILLA_RUN_ID" must not replace FLOTILLA_RUN_ID.
func (e *environment) overlay(vars state.EnvList) {
	clean := map[string]bool{}
	for _, v := range vars {
		name := cleanEnvName(v.Name)
		if name == "" || strings.ContainsAny(name, "=\x00") {
			continue
		}
		if name != v.Name && clean[name] {
			continue
		}
		clean[name] = clean[name] || name == v.Name
		if at, exists := e.index[name]; exists {
			e.list[at].Value = v.Value
			continue
		}
		e.index[name] = len(e.list)
		e.list = append(e.list, state.EnvVar{Name: name, Value: v.Value})
	}
}

func cleanEnvName(name string) string {
	return strings.TrimPrefix(strings.ReplaceAll(name, " ", ""), "$")
}
