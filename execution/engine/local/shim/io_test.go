package shim_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stitchfix/flotilla-os/execution/engine/local/shim"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim/shimtest"
)

func TestLogHoldsEveryByte(t *testing.T) {
	t.Parallel()
	limit := anyLimits(t)
	t.Run("of binary output", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limit, `set +x; head -c 3000000 /dev/urandom | tee random; exec 2>/dev/null`)
		require.Zero(t, shimtest.Ended(t, shimtest.Launch(t, folder)).ExitCode)
		want, err := os.ReadFile(filepath.Join(folder.WorkDir(), "random"))
		require.NoError(t, err)
		got, err := os.ReadFile(folder.LogPath())
		require.NoError(t, err)
		at := bytes.Index(got, want[:64])
		require.GreaterOrEqual(t, at, 0)
		assert.Equal(t, sha256.Sum256(want), sha256.Sum256(got[at:min(len(got), at+len(want))]))
	})
	t.Run("of both streams in the order of writing", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limit, `set +x; for i in 1 2 3; do echo "out $i"; echo "err $i" >&2; done`)
		shimtest.Ended(t, shimtest.Launch(t, folder))
		assert.Contains(t, shimtest.Content(folder.LogPath()), "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n")
	})
	t.Run("of the trace", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limit, "echo traced")
		shimtest.Ended(t, shimtest.Launch(t, folder))
		assert.Contains(t, shimtest.Content(folder.LogPath()), "+ echo traced\ntraced\n")
	})
}

func TestEnvironmentOfTheCommand(t *testing.T) {
	t.Parallel()
	folder := makeAttempt(t, anyLimits(t), `set +x; echo "pwd=$PWD home=$HOME"; env; readlink /proc/self/fd/0; echo end`, func(s *shim.Spec) {
		s.Env = []string{"A=1", "EMPTY=", "LINES_=a\nb", "A_EQ=x=y"}
	})
	shimtest.Ended(t, shimtest.Launch(t, folder))
	log := shimtest.Content(folder.LogPath())
	work := folder.WorkDir()
	assert.Contains(t, log, fmt.Sprintf("pwd=%s home=%s\n", work, work))
	for _, line := range []string{"\nA=1\n", "\nEMPTY=\n", "\nLINES_=a\nb\n", "\nA_EQ=x=y\n", "\n/dev/null\nend\n"} {
		assert.Contains(t, log, line)
	}
	assert.NotContains(t, log, "GOCACHE=", "the server's own environment stays private")
}

func TestRunMaySetItsHome(t *testing.T) {
	t.Parallel()
	got := shim.Environment("/x", shim.Spec{Env: []string{"HOME=/other", "PATH=/p", shim.AttemptVariable + "=forged"}})
	assert.Contains(t, got, "HOME=/other")
	assert.NotContains(t, got, "HOME=/x/work")
	assert.Contains(t, got, "PATH=/p")
	assert.Contains(t, got, shim.AttemptVariable+"=/x")
	assert.NotContains(t, got, shim.AttemptVariable+"=forged")
}

func TestCommandThatCannotBeExecuted(t *testing.T) {
	t.Parallel()
	limit := anyLimits(t)
	cases := map[string]func(*shim.Spec){
		"an argument longer than the system accepts": func(s *shim.Spec) { s.Argv[3] = strings.Repeat("x", 3<<20) },
		"a program that is not there":                func(s *shim.Spec) { s.Argv = []string{"no-such-program"} },
		"a NUL in the command":                       func(s *shim.Spec) { s.Argv[3] = "a\x00b" },
		"a NUL in the environment":                   func(s *shim.Spec) { s.Env = []string{"A=a\x00b"} },
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			exit := neverStarted(t, makeAttempt(t, limit, "true", change))
			assert.Equal(t, 1, exit.ExitCode)
			assert.Contains(t, exit.Reason, "cannot be started")
		})
	}
}

// TestShimOutlivesItsParent kills the process that started the shim, as a crash of the server would.
func TestShimOutlivesItsParent(t *testing.T) {
	t.Parallel()
	folder := makeAttempt(t, anyLimits(t), "while ! [ -e go ]; do sleep 0.02; done; echo survived; exit 9")
	program, err := os.Executable()
	require.NoError(t, err)
	parent := exec.Command("bash", "-c", `setsid "$0" shim "$1" & wait`, program, string(folder))
	require.NoError(t, parent.Start())
	shimtest.Eventually(t, "started", func() bool { s, err := folder.ReadStarted(); return err == nil && s != nil })
	require.NoError(t, parent.Process.Signal(unix.SIGKILL))
	_ = parent.Wait()
	a, err := shim.Attach(folder)
	require.NoError(t, err)
	require.NotNil(t, a)
	require.NoError(t, os.WriteFile(filepath.Join(folder.WorkDir(), "go"), nil, 0o600))
	assert.Equal(t, 9, shimtest.Ended(t, a).ExitCode)
	assert.Contains(t, shimtest.Content(folder.LogPath()), "survived")
}
