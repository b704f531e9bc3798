package local

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/execution/engine/local/shim"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim/shimtest"
	"github.com/stitchfix/flotilla-os/state"
)

// fakeRuntime implements the part of the command line of docker and podman that we use: it records how it was called,
// executes what follows the image, and reports whether that was killed for memory.
const fakeRuntime = `#!/bin/bash
dir=$(dirname "$0")
printf '%s\n' "$*" >>"$dir/calls"
case "$1" in
run)
  shift; entry=; image=
  while [ -z "$image" ]; do
    case "$1" in
    --entrypoint) entry=$2; shift 2;;
    --env) case "$2" in *=*) export "$2";; esac; shift 2;;
    --*) shift 2;;
    *) image=$1; shift;;
    esac
  done
  echo "image $image"
  exec "$entry" "$@";;
inspect) cat "$dir/oom";;
esac
`

func makeRuntime(t *testing.T, oom string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "docker")
	require.NoError(t, os.WriteFile(path, []byte(fakeRuntime), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(path), "oom"), []byte(oom), 0o600))
	return path
}

func TestRunInItsImage(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		script, oom string
		code        int64
		reason      string
	}{
		"the command ends by itself":               {"echo $A; exit 3", "false", 3, shim.ReasonError},
		"killed for memory":                        {"exit 137", "true", 137, "OOMKilled"},
		"the command returns 137 itself":           {"exit 137", "false", 137, shim.ReasonError},
		"a child was killed, the command survived": {"true", "true", 0, shim.ReasonCompleted},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, runtime := newRows(), makeRuntime(t, c.oom)
			e := makeEngine(t, t.TempDir(), r, func(cfg *Config) { cfg.ContainerRuntime = runtime })
			follow(t, e, r)
			run := queuedRun(r, c.script, func(run *state.Run) {
				run.Image, run.Env = "python:3", state.EnvList{{Name: "A", Value: "secret"}, {Name: "HOME", Value: "/h"}}
			})
			execute(t, e, r, run)
			got := awaitStatus(t, r, run, state.StatusStopped)
			assert.Equal(t, c.code, *got.ExitCode)
			assert.Equal(t, c.reason, *got.ExitReason)
			calls := shimtest.Content(filepath.Join(filepath.Dir(runtime), "calls"))
			assert.Contains(t, calls, "--entrypoint bash --memory 256000000b --memory-swap 256000000b --cpus 0.250 --env A --env HOME=/h python:3 -l -cex "+c.script)
			assert.Contains(t, calls, "rm --force flotilla-"+run.RunID+"-1")
			assert.NotContains(t, calls, "secret", "the process list shows no values")
			assert.Contains(t, logOf(t, e, got), "image python:3\n")
		})
	}
}
