package shim_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/execution/engine/local/limits"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim/shimtest"
)

// availableModes returns the modes that work on this machine; the watchdog always does.
func availableModes(t *testing.T) map[limits.Mode]limits.Limits {
	t.Helper()
	modes := map[limits.Mode]limits.Limits{}
	for _, mode := range []limits.Mode{limits.ModeCgroup2, limits.ModeCgroup1, limits.ModeWatchdog} {
		limit, err := limits.Probe(limits.ProbeConfig{Mode: mode, Name: cgroupName(t)})
		if err == nil {
			modes[mode] = limit
			t.Cleanup(func() { limit.RemoveParents() })
		} else {
			require.ErrorIs(t, err, limits.ErrModeUnavailable)
		}
	}
	require.Contains(t, modes, limits.ModeWatchdog)
	return modes
}

func cgroupName(t *testing.T) string {
	return fmt.Sprintf("flotilla-test-%d-%s", os.Getpid(), strings.NewReplacer("/", "_", " ", "_").Replace(t.Name()))
}

func anyLimits(t *testing.T) limits.Limits {
	t.Helper()
	limit, err := limits.Probe(limits.ProbeConfig{Mode: limits.ModeAuto, Name: cgroupName(t)})
	require.NoError(t, err)
	t.Cleanup(func() { limit.RemoveParents() })
	return limit
}

// makeAttempt prepares a folder for a script. change may alter the spec.
func makeAttempt(t *testing.T, limit limits.Limits, script string, change ...func(*shim.Spec)) shim.Folder {
	t.Helper()
	spec := shim.Spec{
		RunID: "eks-" + filepath.Base(t.TempDir()) + strconv.FormatInt(time.Now().UnixNano(), 36), Attempt: 1,
		Argv: []string{"bash", "-l", "-cex", script}, MemoryLimitMB: 256, CPULimitMillicores: 1000, GraceSeconds: 2, Limits: limit,
	}
	for _, c := range change {
		c(&spec)
	}
	folder := shim.AttemptFolder(t.TempDir(), spec.RunID, spec.Attempt)
	require.NoError(t, folder.Prepare(spec))
	return folder
}

// launch starts a shim on a folder.
func launch(folder shim.Folder) (*shim.Process, error) {
	launcher := shim.Launcher{Program: shim.OwnProgram}
	return launcher.Launch(folder)
}

// neverStarted launches a shim that must leave a result without executing anything.
func neverStarted(t *testing.T, folder shim.Folder) shim.Exit {
	t.Helper()
	_, err := launch(folder)
	require.ErrorIs(t, err, shim.ErrNotStarted)
	exit, err := folder.ReadExit()
	require.NoError(t, err)
	require.NotNil(t, exit)
	assert.True(t, exit.NeverStarted)
	return *exit
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	limit := anyLimits(t)
	cases := map[string]struct {
		script string
		code   int
		reason string
	}{
		"an empty command is an empty script":               {"", 0, shim.ReasonCompleted},
		"success":                                           {"true", 0, shim.ReasonCompleted},
		"its own code":                                      {"exit 7", 7, shim.ReasonError},
		"the first failing command ends it (-e)":            {"false; true", 1, shim.ReasonError},
		"a command that is not there":                       {"no-such-command-here", 127, shim.ReasonError},
		"its own 137 is not a memory kill":                  {"exit 137", 137, shim.ReasonError},
		"killed by a signal of its own, 128 and the signal": {"kill -9 $$", 137, "Error: signal 9 (killed)"},
		"terminated by a signal of its own":                 {"kill -TERM $$", 143, "Error: signal 15 (terminated)"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			exit := shimtest.Ended(t, shimtest.Launch(t, makeAttempt(t, limit, c.script)))
			assert.Equal(t, c.code, exit.ExitCode)
			assert.Equal(t, c.reason, exit.Reason)
			assert.False(t, exit.OOMKilled)
			assert.False(t, exit.FinishedAt.Before(exit.StartedAt))
		})
	}
}

func TestProcessesLeftBehindAreKilled(t *testing.T) {
	t.Parallel()
	for mode, limit := range availableModes(t) {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			// One in the background, one in a session of its own, one whose parents are gone, one without environment.
			folder := makeAttempt(t, limit, `
sleep 60 & echo $! >background
setsid bash -c 'echo $$ >session; trap "" TERM; sleep 60; sleep 60' &
(setsid bash -c '(echo $BASHPID >orphan; exec sleep 60) &' &)
env -i setsid bash -c 'echo $$ >bare; exec sleep 60' &
while ! [ -s session -a -s orphan -a -s bare ]; do sleep 0.02; done
exit 3`)
			exit := shimtest.Ended(t, shimtest.Launch(t, folder))
			assert.Equal(t, 3, exit.ExitCode)
			for _, name := range []string{"background", "session", "orphan", "bare"} {
				assert.True(t, limits.Gone(shimtest.PID(t, folder, name)), name)
			}
		})
	}
}

func TestTerminate(t *testing.T) {
	t.Parallel()
	limit := anyLimits(t)
	t.Run("SIGTERM ends a command that handles it", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limit, `trap 'echo bye; exit 5' TERM; echo $$ >ready; while true; do sleep 0.05; done`)
		a := shimtest.Launch(t, folder)
		shimtest.PID(t, folder, "ready")
		require.NoError(t, shim.Terminate(folder))
		exit := shimtest.Ended(t, a)
		assert.True(t, exit.Terminated)
		assert.Contains(t, shimtest.Content(folder.LogPath()), "bye")
	})
	t.Run("SIGKILL after the grace period ends a command that ignores SIGTERM, children included", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limit, `trap '' TERM; setsid sleep 60 & echo $! >child; while true; do sleep 1; done`,
			func(s *shim.Spec) { s.GraceSeconds = 1 })
		a := shimtest.Launch(t, folder)
		child := shimtest.PID(t, folder, "child")
		asked := time.Now()
		require.NoError(t, shim.Terminate(folder))
		exit := shimtest.Ended(t, a)
		assert.GreaterOrEqual(t, time.Since(asked), time.Second)
		assert.True(t, exit.Terminated)
		assert.Equal(t, 143, exit.ExitCode, "never 137 for our own kill")
		assert.True(t, limits.Gone(child))
	})
	t.Run("a request to stop that comes before the start prevents it", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limit, "touch executed")
		require.NoError(t, shim.Terminate(folder))
		neverStarted(t, folder)
		assert.NoFileExists(t, filepath.Join(folder.WorkDir(), "executed"))
	})
}

func TestDeadlineHoldsWithoutServer(t *testing.T) {
	t.Parallel()
	folder := makeAttempt(t, anyLimits(t), `trap '' TERM; while true; do sleep 0.1; done`,
		func(s *shim.Spec) { s.DeadlineSeconds, s.GraceSeconds = 1, 0 })
	exit := shimtest.Ended(t, shimtest.Launch(t, folder))
	assert.Equal(t, 124, exit.ExitCode)
	assert.Contains(t, exit.Reason, "active_deadline_seconds of 1")
	assert.Less(t, exit.FinishedAt.Sub(exit.StartedAt), 10*time.Second)
}
