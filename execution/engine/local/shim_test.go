package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
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
			t.Cleanup(func() { removeParents(limits) })
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

func removeParents(limits Limits) {
	for _, parent := range limits.Parents {
		_ = cgroup(parent).remove()
	}
}

func anyLimits(t *testing.T) Limits {
	t.Helper()
	limits, err := ProbeLimits(ProbeConfig{Mode: ModeAuto, Name: cgroupName(t)})
	require.NoError(t, err)
	t.Cleanup(func() { removeParents(limits) })
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

// eat holds about 900 MB in one process that is not the script's first.
const eat = `perl -e '$x = "y" x 900_000_000; sleep 20'`

func TestMemoryLimitKills(t *testing.T) {
	t.Parallel()
	cases := map[string]string{
		"a child exceeds it and the script fails":    eat,
		"a child exceeds it and the script goes on":  eat + " || true; sleep 20",
		"a pipe's end exceeds it":                    "head -c 900M /dev/zero | tail; sleep 20",
		"a process that left the session exceeds it": "setsid " + eat + " & sleep 20",
		"two processes exceed it together":           strings.Repeat(`perl -e '$x = "y" x 90_000_000; sleep 20' & `, 2) + "wait",
	}
	for mode, limits := range availableModes(t) {
		for name, script := range cases {
			t.Run(fmt.Sprintf("%s/%s", mode, name), func(t *testing.T) {
				t.Parallel()
				folder := makeAttempt(t, limits, "sleep 60 & echo $! >other; "+script)
				exit := ended(t, launched(t, folder))
				assert.Equal(t, oomCode, exit.ExitCode)
				assert.Equal(t, "OOMKilled", exit.Reason)
				assert.True(t, exit.OOMKilled)
				assert.Less(t, exit.FinishedAt.Sub(exit.StartedAt), 15*time.Second, "killed, not waited for")
				assert.True(t, gone(pidIn(t, folder, "other")), "the rest of the run is killed too")
			})
		}
	}
}

func TestMemoryBelowLimitIsMeasured(t *testing.T) {
	t.Parallel()
	for mode, limits := range availableModes(t) {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			script := `perl -e '$x = "y" x 60_000_000; select(undef, undef, undef, 0.4)'`
			exit := ended(t, launched(t, makeAttempt(t, limits, script)))
			assert.Zero(t, exit.ExitCode)
			assert.GreaterOrEqual(t, exit.MaxMemoryMB, int64(55))
			assert.LessOrEqual(t, exit.MaxMemoryMB, int64(200))
		})
	}
}

func TestCPUIsMeasuredAndLimited(t *testing.T) {
	t.Parallel()
	for mode, limits := range availableModes(t) {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			folder := makeAttempt(t, limits, `timeout 2.5 perl -e '1 while 1' || true`, func(s *Spec) { s.CPULimitMillicores = 200 })
			exit := ended(t, launched(t, folder))
			assert.Zero(t, exit.ExitCode)
			assert.Greater(t, exit.MaxMillicores, int64(100))
			if limits.CPUQuota {
				assert.Less(t, exit.MaxMillicores, int64(300), "a quota of 200 holds")
			}
		})
	}
}

func TestCommandRunsInsideItsCgroupAndShimOutside(t *testing.T) {
	t.Parallel()
	for mode, limits := range availableModes(t) {
		if mode == ModeWatchdog {
			continue
		}
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			folder := makeAttempt(t, limits, "cat /proc/self/cgroup; cat /proc/$PPID/cgroup >shim; sleep 60")
			a := launched(t, folder)
			spec, err := folder.ReadSpec()
			require.NoError(t, err)
			name := enclosureName(spec.RunID, 1)
			eventually(t, "the cgroups", func() bool { return strings.Contains(contentOf(folder.LogPath()), name) })
			for _, thread := range threadsOf(t, folder) {
				assert.NotContains(t, thread, name, "no thread of the shim is counted")
			}
			require.NoError(t, terminate(folder))
			ended(t, a)
			assert.Empty(t, limits.existing(name), "cgroups are removed")
		})
	}
}

func threadsOf(t *testing.T, folder Folder) []string {
	t.Helper()
	started, err := folder.ReadStarted()
	require.NoError(t, err)
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/cgroup", started.PID))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var contents []string
	for _, file := range files {
		contents = append(contents, contentOf(file))
	}
	return contents
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
		exit := ended(t, launched(t, folder))
		assert.True(t, exit.NeverStarted)
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

func TestNoSecondStart(t *testing.T) {
	t.Parallel()
	limits := anyLimits(t)
	t.Run("while the first lives", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limits, "echo once >>starts; echo $$ >ready; sleep 60")
		a := launched(t, folder)
		pidIn(t, folder, "ready")
		_, err := launch(ownProgram, folder)
		require.ErrorIs(t, err, errNoStart)
		require.NoError(t, terminate(folder))
		ended(t, a)
		assert.Equal(t, "once\n", contentOf(filepath.Join(folder.path(workFolder), "starts")))
	})
	t.Run("after the first has ended", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limits, "echo once >>starts")
		ended(t, launched(t, folder))
		_, err := launch(ownProgram, folder)
		require.ErrorIs(t, err, errNoStart)
		assert.Equal(t, "once\n", contentOf(filepath.Join(folder.path(workFolder), "starts")))
	})
	t.Run("of sixteen at once", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limits, "echo once >>starts; sleep 0.3")
		results := make(chan error)
		for range 16 {
			go func() {
				a, err := launch(ownProgram, folder)
				if err == nil {
					err = a.wait(context.Background())
				}
				results <- err
			}()
		}
		refused := 0
		for range 16 {
			if err := <-results; errors.Is(err, errNoStart) {
				refused++
			} else {
				require.NoError(t, err)
			}
		}
		assert.Equal(t, 15, refused)
		assert.Equal(t, "once\n", contentOf(filepath.Join(folder.path(workFolder), "starts")))
	})
}

func TestShimKilled(t *testing.T) {
	t.Parallel()
	for mode, limits := range availableModes(t) {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			folder := makeAttempt(t, limits, `setsid bash -c 'echo $$ >child; exec sleep 60' & echo $$ >main; sleep 60`)
			a := launched(t, folder)
			main, child := pidIn(t, folder, "main"), pidIn(t, folder, "child")
			started, err := folder.ReadStarted()
			require.NoError(t, err)
			require.NoError(t, unix.Kill(started.PID, unix.SIGKILL))
			require.NoError(t, a.wait(t.Context()))
			exit, err := folder.ReadExit()
			require.NoError(t, err)
			assert.Nil(t, exit, "started and gone without a result: lost")
			require.NoError(t, removeLeftovers(t.Context(), folder))
			eventually(t, "its processes are killed", func() bool { return gone(main) && gone(child) })
			assert.Empty(t, limits.existing(filepath.Base(filepath.Dir(string(folder)))+"-1"))
		})
	}
}

func TestAttach(t *testing.T) {
	t.Parallel()
	limits := anyLimits(t)
	t.Run("finds the shim and waits for its end", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limits, "while ! [ -e go ]; do sleep 0.02; done; exit 4")
		launched(t, folder)
		other, err := attach(folder)
		require.NoError(t, err)
		require.NotNil(t, other)
		require.NotNil(t, other.pidfd)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, other.wait(ctx), context.DeadlineExceeded)
		again, err := attach(folder)
		require.NoError(t, err)
		other.close()
		require.NoError(t, os.WriteFile(filepath.Join(folder.path(workFolder), "go"), nil, 0o600))
		assert.Equal(t, 4, ended(t, again).ExitCode)
	})
	t.Run("finds nothing before the start and after the end", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limits, "true")
		a, err := attach(folder)
		require.NoError(t, err)
		assert.Nil(t, a)
		ended(t, launched(t, folder))
		a, err = attach(folder)
		require.NoError(t, err)
		assert.Nil(t, a)
	})
	t.Run("watches the lock where the process cannot be seen", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limits, "sleep 0.3; exit 6")
		launched(t, folder)
		other := &attempt{folder: folder}
		assert.Equal(t, 6, ended(t, other).ExitCode)
	})
}
