package local

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
)

func TestLogHoldsEveryByte(t *testing.T) {
	t.Parallel()
	limits := anyLimits(t)
	t.Run("of binary output", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limits, `set +x; head -c 3000000 /dev/urandom | tee random; exec 2>/dev/null`)
		require.Zero(t, ended(t, launched(t, folder)).ExitCode)
		want, err := os.ReadFile(filepath.Join(folder.path(workFolder), "random"))
		require.NoError(t, err)
		got, err := os.ReadFile(folder.LogPath())
		require.NoError(t, err)
		at := bytes.Index(got, want[:64])
		require.GreaterOrEqual(t, at, 0)
		assert.Equal(t, sha256.Sum256(want), sha256.Sum256(got[at:min(len(got), at+len(want))]))
	})
	t.Run("of both streams in the order of writing", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limits, `set +x; for i in 1 2 3; do echo "out $i"; echo "err $i" >&2; done`)
		ended(t, launched(t, folder))
		assert.Contains(t, contentOf(folder.LogPath()), "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n")
	})
	t.Run("of the trace", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limits, "echo traced")
		ended(t, launched(t, folder))
		assert.Contains(t, contentOf(folder.LogPath()), "+ echo traced\ntraced\n")
	})
}

func TestSurroundingsOfTheCommand(t *testing.T) {
	t.Parallel()
	folder := makeAttempt(t, anyLimits(t), `set +x; echo "pwd=$PWD home=$HOME"; env; readlink /proc/self/fd/0; echo end`, func(s *Spec) {
		s.Env = []string{"A=1", "EMPTY=", "LINES_=a\nb", "A_EQ=x=y"}
	})
	ended(t, launched(t, folder))
	log := contentOf(folder.LogPath())
	work := folder.path(workFolder)
	assert.Contains(t, log, fmt.Sprintf("pwd=%s home=%s\n", work, work))
	for _, line := range []string{"\nA=1\n", "\nEMPTY=\n", "\nLINES_=a\nb\n", "\nA_EQ=x=y\n", "\n/dev/null\nend\n"} {
		assert.Contains(t, log, line)
	}
	assert.NotContains(t, log, "GOCACHE=", "the server's own environment stays private")
}

func TestRunMayChooseItsHome(t *testing.T) {
	t.Parallel()
	got := Folder("/x").environment([]string{"HOME=/other", "PATH=/p", attemptVariable + "=forged"})
	assert.Contains(t, got, "HOME=/other")
	assert.NotContains(t, got, "HOME=/x/work")
	assert.Contains(t, got, "PATH=/p")
	assert.Contains(t, got, attemptVariable+"=/x")
	assert.NotContains(t, got, attemptVariable+"=forged")
}

func TestCommandThatCannotBeExecuted(t *testing.T) {
	t.Parallel()
	limits := anyLimits(t)
	cases := map[string]func(*Spec){
		"an argument longer than the system takes": func(s *Spec) { s.Argv[3] = strings.Repeat("x", 3<<20) },
		"a program that is not there":              func(s *Spec) { s.Argv = []string{"no-such-program"} },
		"a NUL in the command":                     func(s *Spec) { s.Argv[3] = "a\x00b" },
		"a NUL in the environment":                 func(s *Spec) { s.Env = []string{"A=a\x00b"} },
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			exit := neverStarted(t, makeAttempt(t, limits, "true", change))
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
	eventually(t, "started", func() bool { s, err := folder.ReadStarted(); return err == nil && s != nil })
	require.NoError(t, parent.Process.Signal(unix.SIGKILL))
	_ = parent.Wait()
	a, err := attach(folder)
	require.NoError(t, err)
	require.NotNil(t, a)
	require.NoError(t, os.WriteFile(filepath.Join(folder.path(workFolder), "go"), nil, 0o600))
	assert.Equal(t, 9, ended(t, a).ExitCode)
	assert.Contains(t, contentOf(folder.LogPath()), "survived")
}
