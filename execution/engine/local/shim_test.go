package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// availableModes are the ways of limiting that this machine really offers; the watchdog is always among them.
func availableModes(t *testing.T) map[Mode]Limits {
	t.Helper()
	modes := map[Mode]Limits{}
	for _, mode := range []Mode{ModeCgroup2, ModeCgroup1, ModeWatchdog} {
		limits, err := ProbeLimits(ProbeConfig{Mode: mode, Name: cgroupName(t)})
		if err == nil {
			modes[mode] = limits
			t.Cleanup(func() { limits.leave() })
		} else {
			require.ErrorIs(t, err, ErrModeUnavailable)
		}
	}
	require.Contains(t, modes, ModeWatchdog)
	return modes
}

func cgroupName(t *testing.T) string {
	return fmt.Sprintf("flotilla-test-%d-%s", os.Getpid(), strings.NewReplacer("/", "_", " ", "_").Replace(t.Name()))
}

func anyLimits(t *testing.T) Limits {
	t.Helper()
	limits, err := ProbeLimits(ProbeConfig{Mode: ModeAuto, Name: cgroupName(t)})
	require.NoError(t, err)
	t.Cleanup(func() { limits.leave() })
	return limits
}

// makeAttempt prepares a folder for a script; change may alter the spec.
func makeAttempt(t *testing.T, limits Limits, script string, change ...func(*Spec)) Folder {
	t.Helper()
	spec := Spec{
		RunID: "eks-" + filepath.Base(t.TempDir()) + strconv.FormatInt(time.Now().UnixNano(), 36), Attempt: 1,
		Argv: []string{"bash", "-l", "-cex", script}, MemoryLimitMB: 256, CPULimitMillicores: 1000, GraceSeconds: 2, Limits: limits,
	}
	for _, c := range change {
		c(&spec)
	}
	folder := AttemptFolder(t.TempDir(), spec.RunID, spec.Attempt)
	require.NoError(t, folder.Prepare(spec))
	return folder
}

func launched(t *testing.T, folder Folder) *attempt {
	t.Helper()
	a, err := launch(ownProgram, folder)
	require.NoError(t, err, "shim.log: %s", contentOf(folder.path(shimLogFile)))
	t.Cleanup(func() {
		_ = terminate(folder)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = a.wait(ctx)
	})
	return a
}

func contentOf(path string) string {
	body, _ := os.ReadFile(path)
	return string(body)
}

// ended waits for the shim and returns the result.
func ended(t *testing.T, a *attempt) Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, a.wait(ctx))
	exit, err := a.folder.ReadExit()
	require.NoError(t, err)
	require.NotNil(t, exit, "no result; shim.log: %s", contentOf(a.folder.path(shimLogFile)))
	return *exit
}

// neverStarted launches a shim that is to leave a result without having executed anything.
func neverStarted(t *testing.T, folder Folder) Exit {
	t.Helper()
	_, err := launch(ownProgram, folder)
	require.ErrorIs(t, err, errNoStart)
	exit, err := folder.ReadExit()
	require.NoError(t, err)
	require.NotNil(t, exit)
	assert.True(t, exit.NeverStarted)
	return *exit
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, patience, 5*time.Millisecond, what)
}

// pidIn waits for a script to have written a process id to a file of its work folder.
func pidIn(t *testing.T, folder Folder, name string) int {
	t.Helper()
	var pid int
	eventually(t, "a process id in "+name, func() bool {
		n, err := strconv.Atoi(strings.TrimSpace(contentOf(filepath.Join(folder.path(workFolder), name))))
		pid = n
		return err == nil
	})
	return pid
}

func gone(pid int) bool {
	stat, err := readStat(pid)
	return err != nil || stat.dead()
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	limits := anyLimits(t)
	cases := map[string]struct {
		script string
		code   int
		reason string
	}{
		"an empty command is an empty script":               {"", 0, successReason},
		"success":                                           {"true", 0, successReason},
		"its own code":                                      {"exit 7", 7, failureReason},
		"the first failing command ends it (-e)":            {"false; true", 1, failureReason},
		"a command that is not there":                       {"no-such-command-here", 127, failureReason},
		"its own 137 is not a memory kill":                  {"exit 137", 137, failureReason},
		"killed by a signal of its own, 128 and the signal": {"kill -9 $$", 137, "Error: signal 9 (killed)"},
		"terminated by a signal of its own":                 {"kill -TERM $$", 143, "Error: signal 15 (terminated)"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			exit := ended(t, launched(t, makeAttempt(t, limits, c.script)))
			assert.Equal(t, c.code, exit.ExitCode)
			assert.Equal(t, c.reason, exit.Reason)
			assert.False(t, exit.OOMKilled)
			assert.False(t, exit.FinishedAt.Before(exit.StartedAt))
		})
	}
}

func TestWhatTheCommandLeavesBehindIsKilled(t *testing.T) {
	t.Parallel()
	for mode, limits := range availableModes(t) {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			// One in the background, one in a session of its own, one whose parents are gone, one without environment.
			folder := makeAttempt(t, limits, `
sleep 60 & echo $! >background
setsid bash -c 'echo $$ >session; trap "" TERM; sleep 60; sleep 60' &
(setsid bash -c '(echo $BASHPID >orphan; exec sleep 60) &' &)
env -i setsid bash -c 'echo $$ >bare; exec sleep 60' &
while ! [ -s session -a -s orphan -a -s bare ]; do sleep 0.02; done
exit 3`)
			exit := ended(t, launched(t, folder))
			assert.Equal(t, 3, exit.ExitCode)
			for _, name := range []string{"background", "session", "orphan", "bare"} {
				assert.True(t, gone(pidIn(t, folder, name)), name)
			}
		})
	}
}

func TestTerminate(t *testing.T) {
	t.Parallel()
	limits := anyLimits(t)
	t.Run("SIGTERM ends a command that listens to it", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limits, `trap 'echo bye; exit 5' TERM; echo $$ >ready; while true; do sleep 0.05; done`)
		a := launched(t, folder)
		pidIn(t, folder, "ready")
		require.NoError(t, terminate(folder))
		exit := ended(t, a)
		assert.True(t, exit.Terminated)
		assert.Contains(t, contentOf(folder.LogPath()), "bye")
	})
	t.Run("SIGKILL after the grace period ends the deaf, children included", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limits, `trap '' TERM; setsid sleep 60 & echo $! >child; while true; do sleep 1; done`,
			func(s *Spec) { s.GraceSeconds = 1 })
		a := launched(t, folder)
		child := pidIn(t, folder, "child")
		asked := time.Now()
		require.NoError(t, terminate(folder))
		exit := ended(t, a)
		assert.GreaterOrEqual(t, time.Since(asked), time.Second)
		assert.True(t, exit.Terminated)
		assert.Equal(t, 143, exit.ExitCode, "never 137 for our own kill")
		assert.True(t, gone(child))
	})
	t.Run("a wish to stop that comes before the start prevents it", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limits, "touch executed")
		require.NoError(t, terminate(folder))
		neverStarted(t, folder)
		assert.NoFileExists(t, filepath.Join(folder.path(workFolder), "executed"))
	})
}

func TestDeadlineHoldsWithoutServer(t *testing.T) {
	t.Parallel()
	folder := makeAttempt(t, anyLimits(t), `trap '' TERM; while true; do sleep 0.1; done`,
		func(s *Spec) { s.DeadlineSeconds, s.GraceSeconds = 1, 0 })
	exit := ended(t, launched(t, folder))
	assert.Equal(t, 124, exit.ExitCode)
	assert.Contains(t, exit.Reason, "active_deadline_seconds of 1")
	assert.Less(t, exit.FinishedAt.Sub(exit.StartedAt), 10*time.Second)
}
