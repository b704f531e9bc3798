package container

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/stitchfix/flotilla-os/state"
)

func TestEnv(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		definition, run, want state.EnvList
	}{
		"nothing": {},
		"the run's value wins, in the place of the definition's": {
			definition: state.EnvList{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}},
			run:        state.EnvList{{Name: "C", Value: "3"}, {Name: "A", Value: "4"}},
			want:       state.EnvList{{Name: "A", Value: "4"}, {Name: "B", Value: "2"}, {Name: "C", Value: "3"}},
		},
		"of two with one name the later counts": {
			run:  state.EnvList{{Name: "A", Value: "1"}, {Name: "A", Value: "2"}},
			want: state.EnvList{{Name: "A", Value: "2"}},
		},
		"names lose a leading $ and spaces": {
			run:  state.EnvList{{Name: "$A", Value: "$1"}, {Name: " B C ", Value: " x "}, {Name: "D$", Value: ""}},
			want: state.EnvList{{Name: "A", Value: "$1"}, {Name: "BC", Value: " x "}, {Name: "D$", Value: ""}},
		},
		"names that no process can have are left out": {
			run: state.EnvList{{Name: ""}, {Name: "$"}, {Name: "  "}, {Name: "A=B"}, {Name: "A\x00"}},
		},
		"a name that had to be cleaned does not replace a clean one": {
			definition: state.EnvList{{Name: "$FLOTILLA_RUN_ID", Value: "definition"}},
			run:        state.EnvList{{Name: "FLOTILLA_RUN_ID", Value: "run"}, {Name: "$FLOTILLA_RUN_ID", Value: "forged"}},
			want:       state.EnvList{{Name: "FLOTILLA_RUN_ID", Value: "run"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Env(state.Definition{Env: tc.definition}, state.Run{Env: tc.run})
			assert.Equal(t, tc.want, got)
		})
	}
	assert.Equal(t, state.EnvList{{Name: "A", Value: "1"}}, Env(nil, state.Run{Env: state.EnvList{{Name: "A", Value: "1"}}}))
}

func TestCommand(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		command *string
		want    string
	}{
		"no command is an empty script":   {nil, ""},
		"a command is one argument as is": {new("echo 'a b'\nexit 3"), "echo 'a b'\nexit 3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, []string{"bash", "-l", "-cex", tc.want}, Command(state.Run{Command: tc.command}))
		})
	}
}
