package local

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stitchfix/flotilla-os/execution/engine/local/limits"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim/shimtest"
	"github.com/stitchfix/flotilla-os/state"
)

func TestRestartAttaches(t *testing.T) {
	t.Parallel()
	r, dir := newRows(), t.TempDir()
	before := makeEngine(t, dir, r)
	stop := follow(t, before, r)
	driving(t, before)
	run := queuedRun(r, "echo begun; while ! [ -e go ]; do sleep 0.02; done; exit 4")
	waiting := queuedRun(r, "exit 5", func(run *state.Run) { run.RequestedMemory = new(int64(1024)) })
	execute(t, before, r, run)
	awaitStatus(t, r, run, state.StatusRunning)
	execute(t, before, r, waiting)
	stop()
	assert.Equal(t, state.StatusRunning, r.get(run.RunID).Status)

	after := makeEngine(t, dir, r)
	assert.Equal(t, before.Node(), after.Node())
	r.mu.Lock()
	r.fail = 2 // the database comes back a little later
	r.mu.Unlock()
	follow(t, after, r)
	driving(t, after)
	shimtest.Eventually(t, "the waiting run waits again", func() bool { return after.admission.has(waiting.RunID) })
	require.NoError(t, os.WriteFile(filepath.Join(after.folder(run.RunID, 1).WorkDir(), "go"), nil, 0o600))
	got := awaitStatus(t, r, run, state.StatusStopped)
	assert.Equal(t, int64(4), *got.ExitCode)
	assert.Equal(t, 1, strings.Count(logOf(t, after, got), "\nbegun\n"), "never a second start")
	assert.Equal(t, int64(5), *awaitStatus(t, r, waiting, state.StatusStopped).ExitCode)
}

// TestWhatARestartFinds has a row per state that a crash can leave (docs/crash-points.md).
func TestWhatARestartFinds(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		prepare func(t *testing.T, e *Engine, r *rows, run state.Run)
		status  state.Status
		code    *int64
		reason  string
		log     string
	}{
		"accepted, not yet committed to start: started": {
			prepare: accepted(false), status: state.StatusStopped, code: new(int64(0)), reason: shim.ReasonCompleted, log: "\nexecuted\n"},
		"committed to start, no shim: started": {
			prepare: accepted(true), status: state.StatusStopped, code: new(int64(0)), reason: shim.ReasonCompleted, log: "\nexecuted\n"},
		"a shim died before it wrote that it started: started": {
			prepare: func(t *testing.T, e *Engine, r *rows, run state.Run) {
				accepted(true)(t, e, r, run)
				lock := filepath.Join(string(e.folder(run.RunID, 1)), "lock")
				require.NoError(t, os.WriteFile(lock, nil, 0o600))
			}, status: state.StatusStopped, code: new(int64(0)), reason: shim.ReasonCompleted, log: "\nexecuted\n"},
		"a shim died after it wrote that it started: lost, never a second start": {
			prepare: func(t *testing.T, e *Engine, r *rows, run state.Run) {
				accepted(true)(t, e, r, run)
				body, err := json.Marshal(shim.Started{PID: 1 << 22, BootID: "another"})
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(filepath.Join(string(e.folder(run.RunID, 1)), "started.json"), body, 0o600))
			}, status: state.StatusStopped, reason: reasonLost},
		"a result that was not reported: reported": {
			prepare: func(t *testing.T, e *Engine, r *rows, run state.Run) {
				accepted(true)(t, e, r, run)
				shimtest.Ended(t, shimtest.Launch(t, e.folder(run.RunID, 1)))
			}, status: state.StatusStopped, code: new(int64(0)), reason: shim.ReasonCompleted, log: "\nexecuted\n"},
		"a shim that nobody knows of: attached": {
			prepare: func(t *testing.T, e *Engine, r *rows, run state.Run) {
				accepted(true)(t, e, r, run)
				shimtest.Launch(t, e.folder(run.RunID, 1))
			}, status: state.StatusStopped, code: new(int64(0)), reason: shim.ReasonCompleted, log: "\nexecuted\n"},
		"no folder and not committed to start: queued again": {
			prepare: func(t *testing.T, e *Engine, r *rows, run state.Run) {
				accepted(false)(t, e, r, run)
				require.NoError(t, os.RemoveAll(string(e.folder(run.RunID, 1))))
			}, status: state.StatusQueued},
		"no folder and committed to start: lost": {
			prepare: func(t *testing.T, e *Engine, r *rows, run state.Run) {
				accepted(true)(t, e, r, run)
				require.NoError(t, os.RemoveAll(string(e.folder(run.RunID, 1))))
			}, status: state.StatusStopped, reason: reasonLost},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, dir := newRows(), t.TempDir()
			run := queuedRun(r, "echo executed; sleep 0.1")
			c.prepare(t, makeEngine(t, dir, r), r, run)
			e := makeEngine(t, dir, r)
			follow(t, e, r)
			got := awaitStatus(t, r, run, c.status)
			assert.Equal(t, c.code, got.ExitCode)
			if c.reason != "" {
				require.NotNil(t, got.ExitReason)
				assert.Equal(t, c.reason, *got.ExitReason)
			}
			if c.log != "" {
				assert.Equal(t, 1, strings.Count(logOf(t, e, got), c.log))
			} else {
				assert.NotContains(t, logOf(t, e, got), "executed")
			}
		})
	}
}

// accepted leaves a run as a server that dies right after the acceptance does.
func accepted(intent bool) func(*testing.T, *Engine, *rows, state.Run) {
	return func(t *testing.T, e *Engine, r *rows, run state.Run) {
		t.Helper()
		execute(t, e, r, run)
		if intent {
			ok, err := r.CommitStart(t.Context(), run.RunID, e.Node())
			require.NoError(t, err)
			require.True(t, ok)
		}
		require.NoError(t, os.RemoveAll(filepath.Join(e.dataDir, incomingFolder, run.RunID+".1")))
	}
}

func TestShimKilledUnderAServer(t *testing.T) {
	t.Parallel()
	r := newRows()
	e := makeEngine(t, t.TempDir(), r)
	follow(t, e, r)
	run := queuedRun(r, "echo $$ >main; sleep 60")
	execute(t, e, r, run)
	folder := e.folder(run.RunID, 1)
	main := shimtest.PID(t, folder, "main")
	started, err := folder.ReadStarted()
	require.NoError(t, err)
	require.NoError(t, unix.Kill(started.PID, unix.SIGKILL))
	got := awaitStatus(t, r, run, state.StatusStopped)
	assert.Nil(t, got.ExitCode)
	assert.Equal(t, reasonLost, *got.ExitReason)
	assert.True(t, limits.Gone(main), "the processes it left are killed first")
}

func TestTwoServersShareAFolder(t *testing.T) {
	t.Parallel()
	r, dir := newRows(), t.TempDir()
	first, second := makeEngine(t, dir, r), makeEngine(t, dir, r)
	stop := follow(t, first, r)
	driving(t, first)
	follow(t, second, r)
	run := queuedRun(r, "exit 6")
	execute(t, second, r, run)
	assert.Equal(t, int64(6), *awaitStatus(t, r, run, state.StatusStopped).ExitCode, "the driver executes what the other server accepted")
	long := queuedRun(r, "while ! [ -e go ]; do sleep 0.02; done; exit 7")
	execute(t, first, r, long)
	awaitStatus(t, r, long, state.StatusRunning)
	assert.False(t, second.driving.Load())
	stop()
	driving(t, second)
	require.NoError(t, os.WriteFile(filepath.Join(first.folder(long.RunID, 1).WorkDir(), "go"), nil, 0o600))
	assert.Equal(t, int64(7), *awaitStatus(t, r, long, state.StatusStopped).ExitCode, "and takes over")
}

func TestStartCommittedInSpiteOfAnError(t *testing.T) {
	t.Parallel()
	r := newRows()
	e := makeEngine(t, t.TempDir(), r)
	run := queuedRun(r, "echo executed")
	accepted(false)(t, e, r, run)
	flaky := &flakyCommit{rows: r}
	e.cfg.Store = flaky
	follow(t, e, r)
	got := awaitStatus(t, r, run, state.StatusStopped)
	assert.Equal(t, 1, strings.Count(logOf(t, e, got), "\nexecuted\n"))
}

// flakyCommit commits the first start and returns an error all the same.
type flakyCommit struct {
	*rows
	failed bool // of the follower's one loop
}

func (s *flakyCommit) CommitStart(ctx context.Context, id, node string) (bool, error) {
	ok, err := s.rows.CommitStart(ctx, id, node)
	if !s.failed {
		s.failed = true
		return false, errAway
	}
	return ok, err
}

func TestNoCgroupIsLeftBehind(t *testing.T) {
	t.Parallel()
	r, dir := newRows(), t.TempDir()
	for range 2 { // the second time, the parents are made again
		e := makeEngine(t, dir, r)
		stop := follow(t, e, r)
		run := queuedRun(r, "true")
		execute(t, e, r, run)
		assert.Equal(t, int64(0), *awaitStatus(t, r, run, state.StatusStopped).ExitCode)
		stop()
		for _, parent := range e.limits.Parents {
			assert.NoDirExists(t, parent)
		}
		stop = follow(t, e, r)
		driving(t, e)
		stop()
	}
}
