package local

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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
			assert.Greater(t, exit.MaxMillicores, int64(20), "a busy machine may give it little")
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
