package shim_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/execution/engine/local/limits"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim/shimtest"
)

// eat holds about 900 MB in one process that is not the script's first.
const eat = `perl -e '$x = "y" x 900_000_000; sleep 300'`

func TestMemoryLimitKills(t *testing.T) {
	t.Parallel()
	cases := map[string]string{
		"a child exceeds it and the script fails":    eat,
		"a child exceeds it and the script goes on":  eat + " || true; sleep 300",
		"a pipe's end exceeds it":                    "head -c 900M /dev/zero | tail; sleep 300",
		"a process that left the session exceeds it": "setsid " + eat + " & sleep 300",
		"two processes exceed it together":           strings.Repeat(`perl -e '$x = "y" x 90_000_000; sleep 300' & `, 2) + "wait",
	}
	for mode, limit := range availableModes(t) {
		for name, script := range cases {
			t.Run(fmt.Sprintf("%s/%s", mode, name), func(t *testing.T) {
				t.Parallel()
				folder := makeAttempt(t, limit, "sleep 60 & echo $! >other; "+script)
				exit := shimtest.Ended(t, shimtest.Launch(t, folder))
				assert.Equal(t, shim.CodeOOM, exit.ExitCode)
				assert.Equal(t, "OOMKilled", exit.Reason)
				assert.True(t, exit.OOMKilled)
				assert.Less(t, exit.FinishedAt.Sub(exit.StartedAt), 200*time.Second, "killed, not waited for")
				assert.True(t, limits.Gone(shimtest.PID(t, folder, "other")), "the rest of the run is killed too")
			})
		}
	}
}

func TestMemoryBelowLimitIsMeasured(t *testing.T) {
	t.Parallel()
	for mode, limit := range availableModes(t) {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			script := `perl -e '$x = "y" x 60_000_000; select(undef, undef, undef, 0.4)'`
			exit := shimtest.Ended(t, shimtest.Launch(t, makeAttempt(t, limit, script)))
			assert.Zero(t, exit.ExitCode)
			assert.GreaterOrEqual(t, exit.MaxMemoryMB, int64(55))
			assert.LessOrEqual(t, exit.MaxMemoryMB, int64(200))
		})
	}
}

func TestCPUIsMeasuredAndLimited(t *testing.T) {
	t.Parallel()
	for mode, limit := range availableModes(t) {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			folder := makeAttempt(t, limit, `timeout 2.5 perl -e '1 while 1' || true`, func(s *shim.Spec) { s.CPULimitMillicores = 200 })
			exit := shimtest.Ended(t, shimtest.Launch(t, folder))
			assert.Zero(t, exit.ExitCode)
			assert.Greater(t, exit.MaxMillicores, int64(20), "a busy machine may give it little")
			if limit.CPUQuota {
				assert.Less(t, exit.MaxMillicores, int64(300), "a quota of 200 holds")
			}
		})
	}
}

func TestCommandRunsInsideItsCgroupAndShimOutside(t *testing.T) {
	t.Parallel()
	for mode, limit := range availableModes(t) {
		if mode == limits.ModeWatchdog {
			continue
		}
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			folder := makeAttempt(t, limit, "cat /proc/self/cgroup; cat /proc/$PPID/cgroup >shim; sleep 60")
			a := shimtest.Launch(t, folder)
			spec, err := folder.ReadSpec()
			require.NoError(t, err)
			name := spec.Name()
			shimtest.Eventually(t, "the cgroups", func() bool { return strings.Contains(shimtest.Content(folder.LogPath()), name) })
			for _, thread := range threadsOf(t, folder) {
				assert.NotContains(t, thread, name, "no thread of the shim is counted")
			}
			require.NoError(t, shim.Terminate(folder))
			shimtest.Ended(t, a)
			assert.NotContains(t, limit.Names(), name, "cgroups are removed")
		})
	}
}

func threadsOf(t *testing.T, folder shim.Folder) []string {
	t.Helper()
	started, err := folder.ReadStarted()
	require.NoError(t, err)
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/cgroup", started.PID))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var contents []string
	for _, file := range files {
		contents = append(contents, shimtest.Content(file))
	}
	return contents
}
