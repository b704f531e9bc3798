package local

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/local/limits"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim/shimtest"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/metrics/metricstest"
	"github.com/stitchfix/flotilla-os/state"
)

func TestRunFromExecuteToStopped(t *testing.T) {
	t.Parallel()
	r := newRows()
	e := makeEngine(t, t.TempDir(), r)
	follow(t, e, r)
	driving(t, e)
	run := queuedRun(r, "echo hello; exit 3", func(run *state.Run) { run.Env = state.EnvList{{Name: "$A B", Value: "1"}} })
	execute(t, e, r, run)
	got := awaitStatus(t, r, run, state.StatusStopped)
	assert.Equal(t, int64(3), *got.ExitCode)
	assert.Equal(t, e.Node(), got.InstanceID, "the start was committed with the acceptance")
	assert.Equal(t, int64(256), *got.Memory)
	assert.NotNil(t, got.StartedAt)
	assert.NotNil(t, got.FinishedAt)
	assert.Contains(t, logOf(t, e, got), "+ echo hello\nhello\n+ exit 3\n")
	shimtest.Eventually(t, "the work folder is removed", func() bool {
		_, err := os.Stat(e.folder(run.RunID, 1).WorkDir())
		return errors.Is(err, os.ErrNotExist)
	})
	spec, err := e.folder(run.RunID, 1).ReadSpec()
	require.NoError(t, err)
	assert.Equal(t, []string{"AB=1"}, spec.Env)
	manifest, err := e.Manifest(t.Context(), got)
	require.NoError(t, err)
	assert.Contains(t, string(manifest), "run_id: "+run.RunID)
	events, err := e.Events(t.Context(), got)
	require.NoError(t, err)
	require.Len(t, events, 2)
	assert.Equal(t, "Started", events[0].Reason)
	assert.Positive(t, r.beats, "nobody finds the orphans of a node without heartbeat")
}

func TestMemoryKillIsReported(t *testing.T) {
	t.Parallel()
	r := newRows()
	e := makeEngine(t, t.TempDir(), r)
	follow(t, e, r)
	run := queuedRun(r, `perl -e '$x = "y" x 900_000_000; sleep 300'`)
	execute(t, e, r, run)
	got := awaitStatus(t, r, run, state.StatusStopped)
	assert.Equal(t, state.ExitCodeOOM, *got.ExitCode)
	assert.Equal(t, state.ReasonOOMKilled, *got.ExitReason)
}

// killed is a history of memory kills, by the rule of ara.md section 2 for one kill.
type killed struct{ run *state.Run }

func (k killed) EstimateRunResources(context.Context, string, string) (state.Size, error) {
	if k.run.RunID == "" {
		return state.Size{}, state.Missingf("no kills")
	}
	return state.Size{Memory: *k.run.Memory * 7 / 4, CPU: *k.run.CPU * 5 / 4}, nil
}

// The job and the machine of ara.md section 3, step 4, at a tenth of their sizes: the job needs 120 MB of 150 MB.
func TestRunGrowsUpToTheCapacity(t *testing.T) {
	t.Parallel()
	last, measured := state.Run{}, metricstest.New(t)
	settings := config.Default().ARA
	settings.MinMemory = 16
	sizer, err := adapter.New(adapter.AdapterConfig{
		ARA: settings, Metrics: measured, Logger: slog.New(slog.DiscardHandler), Estimator: killed{&last},
	})
	require.NoError(t, err)
	r := newRows()
	e := makeEngine(t, t.TempDir(), r, func(c *Config) { c.Sizer, c.MemoryMB = sizer, 150 })
	follow(t, e, r)
	driving(t, e)
	for _, want := range []struct{ memory, code int64 }{{51, state.ExitCodeOOM}, {89, state.ExitCodeOOM}, {150, 0}} {
		run := queuedRun(r, `perl -e '$x = "y" x 55_000_000; sleep 2'`, func(run *state.Run) {
			run.CommandHash, run.RequestedMemory, run.RequestedCPU = new("h"), new(int64(51)), new(int64(250))
		})
		require.NoError(t, e.Execute(t.Context(), engine.Submission{
			Run: run, Executable: state.Definition{DefinitionID: "d"}, Accept: r.accept(run.RunID),
		}))
		last = awaitStatus(t, r, run, state.StatusStopped)
		assert.Equal(t, want.memory, *last.Memory)
		assert.Equal(t, want.code, *last.ExitCode)
	}
	assert.EqualValues(t, 3, measured.Count(metrics.EngineEKSARAEstimationAttempted))
	assert.EqualValues(t, 2, measured.Count(metrics.EngineEKSARAResourceAdjustment))
}

func TestADecisionIsReportedOnceTheRunIsAccepted(t *testing.T) {
	t.Parallel()
	measured := metricstest.New(t)
	sizer, err := adapter.New(adapter.AdapterConfig{
		ARA: config.Default().ARA, Metrics: measured, Logger: slog.New(slog.DiscardHandler), Estimator: killed{&state.Run{}},
	})
	require.NoError(t, err)
	e := makeEngine(t, t.TempDir(), newRows(), func(c *Config) { c.Sizer = sizer })
	submit := func(id string, accepted bool, failure error) error {
		return e.Execute(t.Context(), engine.Submission{
			Run: state.Run{RunID: id, ClusterName: testCluster, Command: new("true")}, Executable: state.Definition{DefinitionID: "d"},
			Accept: func(context.Context, state.Acceptance) (bool, error) { return accepted, failure },
		})
	}
	reported := func() int64 { return measured.Count(metrics.EngineEKSARANullCommandHash) }
	require.NoError(t, submit("eks-1", false, nil))
	require.ErrorIs(t, submit("eks-2", false, errAway), errAway)
	assert.Zero(t, reported(), "the runs were not accepted")
	require.NoError(t, submit("eks-3", true, nil))
	assert.EqualValues(t, 1, reported())
	require.NoError(t, submit("eks-3", true, nil))
	assert.EqualValues(t, 1, reported(), "the size is that of the folder")
}

func TestRunThatCanNeverFitIsRejected(t *testing.T) {
	t.Parallel()
	r := newRows()
	e := makeEngine(t, t.TempDir(), r)
	run := queuedRun(r, "true", func(run *state.Run) { run.RequestedMemory = new(int64(1025)) })
	err := e.Execute(t.Context(), engine.Submission{Run: run, Accept: r.accept(run.RunID)})
	var rejected engine.Rejected
	require.ErrorAs(t, err, &rejected)
	assert.Contains(t, rejected.Reason, "requests 1025 MB")
	assert.Contains(t, rejected.Reason, "1024 MB and 8000 millicores")
}

func TestRunsWaitForCapacityInOrder(t *testing.T) {
	t.Parallel()
	r := newRows()
	e := makeEngine(t, t.TempDir(), r)
	follow(t, e, r)
	driving(t, e)
	first := queuedRun(r, "echo $$ >ready; sleep 60", func(run *state.Run) { run.RequestedMemory = new(int64(600)) })
	big := queuedRun(r, "true", func(run *state.Run) { run.RequestedMemory = new(int64(1024)) })
	small := queuedRun(r, "true", func(run *state.Run) { run.RequestedMemory = new(int64(10)) })
	execute(t, e, r, first)
	awaitStatus(t, r, first, state.StatusRunning)
	execute(t, e, r, big)
	execute(t, e, r, small)
	shimtest.Eventually(t, "the row says why it waits", func() bool {
		reason := r.get(small.RunID).StatusReason
		return reason != nil && strings.Contains(*reason, "waits for 10 MB")
	})
	assert.Equal(t, state.StatusPending, r.get(small.RunID).Status, "it would fit, but the large one came first")
	r.change(first.RunID, func(run *state.Run) { run.Status = state.StatusStopped })
	require.NoError(t, e.Terminate(t.Context(), r.get(first.RunID)))
	b := awaitStatus(t, r, big, state.StatusStopped)
	s := awaitStatus(t, r, small, state.StatusStopped)
	assert.False(t, s.StartedAt.Before(*b.FinishedAt), "the large one had the machine to itself")
}

func TestStoppedThroughAnotherServer(t *testing.T) {
	t.Parallel()
	r := newRows()
	e := makeEngine(t, t.TempDir(), r)
	follow(t, e, r)
	driving(t, e)
	running := queuedRun(r, "echo $$ >main; sleep 60", func(run *state.Run) { run.RequestedMemory = new(int64(1000)) })
	waiting := queuedRun(r, "true", func(run *state.Run) { run.RequestedMemory = new(int64(1000)) })
	execute(t, e, r, running)
	main := shimtest.PID(t, e.folder(running.RunID, 1), "main")
	execute(t, e, r, waiting)
	for _, run := range []state.Run{running, waiting} {
		r.change(run.RunID, func(run *state.Run) { run.Status = state.StatusStopped })
	}
	shimtest.Eventually(t, "its process is ended", func() bool { return limits.Gone(main) })
	shimtest.Eventually(t, "nothing is left of both", func() bool { return len(e.admission.ids(10)) == 0 })
	assert.NoFileExists(t, filepath.Join(string(e.folder(waiting.RunID, 1)), "started.json"))
}

func TestAcceptanceDecides(t *testing.T) {
	t.Parallel()
	r := newRows()
	e := makeEngine(t, t.TempDir(), r)
	follow(t, e, r)
	driving(t, e)
	t.Run("a run that is no longer ours is not executed", func(t *testing.T) {
		run := queuedRun(r, "true", func(run *state.Run) { run.Status = state.StatusStopped })
		execute(t, e, r, run)
		assert.False(t, e.admission.has(run.RunID))
		assert.NoFileExists(t, filepath.Join(string(e.folder(run.RunID, 1)), "started.json"))
	})
	t.Run("an acceptance that was committed although it failed is found and executed once", func(t *testing.T) {
		run := queuedRun(r, "echo once; sleep 0.2")
		err := e.Execute(t.Context(), engine.Submission{Run: run, Accept: func(ctx context.Context, a state.Acceptance) (bool, error) {
			_, _ = r.accept(run.RunID)(ctx, a)
			return false, errAway
		}})
		require.ErrorIs(t, err, errAway)
		execute(t, e, r, run) // the worker tries again
		got := awaitStatus(t, r, run, state.StatusStopped)
		assert.Equal(t, 1, strings.Count(logOf(t, e, got), "\nonce\n"))
	})
	t.Run("accepted twice, it is executed once", func(t *testing.T) {
		run := queuedRun(r, "echo once; sleep 0.2")
		execute(t, e, r, run)
		execute(t, e, r, run)
		got := awaitStatus(t, r, run, state.StatusStopped)
		execute(t, e, r, run)
		assert.Equal(t, 1, strings.Count(logOf(t, e, got), "\nonce\n"))
	})
}

func TestManyRunsAtOnce(t *testing.T) {
	t.Parallel()
	r := newRows()
	e := makeEngine(t, t.TempDir(), r)
	follow(t, e, r)
	driving(t, e)
	var runs []state.Run
	for range 40 {
		runs = append(runs, queuedRun(r, "echo x >>../starts"))
	}
	for _, run := range runs {
		go func() { _ = e.Execute(context.Background(), engine.Submission{Run: run, Accept: r.accept(run.RunID)}) }()
	}
	for _, run := range runs {
		got := awaitStatus(t, r, run, state.StatusStopped)
		assert.Equal(t, int64(0), *got.ExitCode)
		assert.Equal(t, "x\n", shimtest.Content(filepath.Join(string(e.folder(run.RunID, 1)), "starts")))
	}
	shimtest.Eventually(t, "all shares are released", func() bool {
		e.admission.mu.Lock()
		defer e.admission.mu.Unlock()
		return e.admission.used == state.Size{} && len(e.admission.accepting) == 0
	})
}

func TestLogPositions(t *testing.T) {
	t.Parallel()
	r := newRows()
	e := makeEngine(t, t.TempDir(), r)
	run := state.Run{RunID: "eks-log", AttemptCount: new(int64(2))}
	for attempt, content := range map[int]string{1: "first\n", 2: "second\n"} {
		folder := e.folder(run.RunID, attempt)
		require.NoError(t, os.MkdirAll(string(folder), 0o700))
		require.NoError(t, os.WriteFile(folder.LogPath(), []byte(content), 0o600))
	}
	const whole = "first\n--- attempt 2 ---\nsecond\n"
	for _, limit := range []int64{1, 2, 7, 1000} {
		var read strings.Builder
		position := int64(0)
		for {
			chunk, err := e.Logs(t.Context(), run, engine.LogQuery{Offset: position, Limit: limit})
			require.NoError(t, err)
			require.LessOrEqual(t, int64(len(chunk.Data)), limit)
			require.Equal(t, position+int64(len(chunk.Data)), chunk.Next)
			if len(chunk.Data) == 0 {
				break
			}
			read.Write(chunk.Data)
			position = chunk.Next
		}
		assert.Equal(t, whole, read.String())
	}
	beyond, err := e.Logs(t.Context(), run, engine.LogQuery{Offset: 1 << 40, Limit: 10})
	require.NoError(t, err)
	assert.Empty(t, beyond.Data)
	none, err := e.Logs(t.Context(), state.Run{RunID: "eks-none"}, engine.LogQuery{Limit: 10})
	require.NoError(t, err, "not started yet: empty, not an error")
	assert.Empty(t, none.Data)
	_, err = e.Logs(t.Context(), state.Run{RunID: "eks-away", InstanceID: "other", InstanceDNS: "other-host"}, engine.LogQuery{Limit: 10})
	require.ErrorAs(t, err, &state.MissingResource{})
}

func TestDeadlineOfARun(t *testing.T) {
	t.Parallel()
	now := time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	e := &Engine{cfg: Config{Clock: func() time.Time { return now }}}
	cases := map[string]struct {
		run  state.Run
		want int64
	}{
		"none":                            {state.Run{}, 0},
		"the whole":                       {state.Run{ActiveDeadlineSeconds: new(int64(100))}, 100},
		"the rest after an earlier start": {state.Run{ActiveDeadlineSeconds: new(int64(100)), StartedAt: new(now.Add(-30 * time.Second))}, 70},
		"nothing left":                    {state.Run{ActiveDeadlineSeconds: new(int64(100)), StartedAt: new(now.Add(-time.Hour))}, 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, e.deadlineOf(c.run))
		})
	}
}

func TestOldRunsAreRemoved(t *testing.T) {
	t.Parallel()
	r := newRows()
	e := makeEngine(t, t.TempDir(), r, func(c *Config) { c.LogRetention = time.Hour })
	f := &follower{Engine: e, logger: e.cfg.Logger}
	old, young := e.folder("eks-old", 1), e.folder("eks-young", 1)
	for _, folder := range []shim.Folder{old, young} {
		require.NoError(t, folder.Prepare(shim.Spec{}))
	}
	past := time.Now().Add(-2 * time.Hour)
	require.NoError(t, os.Chtimes(string(old), past, past))
	require.NoError(t, f.removeOld(t.Context()))
	assert.NoDirExists(t, string(old))
	assert.DirExists(t, string(young))
}

func TestCommandRefusedByTheSystemEndsTheRun(t *testing.T) {
	t.Parallel()
	r := newRows()
	e := makeEngine(t, t.TempDir(), r)
	follow(t, e, r)
	run := queuedRun(r, strings.Repeat("x", 3<<20))
	execute(t, e, r, run)
	got := awaitStatus(t, r, run, state.StatusStopped)
	assert.Equal(t, state.ExitCodeNeverStarted, *got.ExitCode)
	assert.Contains(t, *got.ExitReason, "cannot be started")
	assert.Nil(t, got.StartedAt)
}

func TestSpareShim(t *testing.T) {
	t.Parallel()
	r := newRows()
	e := makeEngine(t, t.TempDir(), r)
	stop := follow(t, e, r)
	shimtest.Eventually(t, "a spare shim is prepared", func() bool { return e.launcher.SparePID() != 0 })
	spare := e.launcher.SparePID()

	run := queuedRun(r, "true")
	execute(t, e, r, run)
	awaitStatus(t, r, run, state.StatusStopped)
	started, err := e.folder(run.RunID, 1).ReadStarted()
	require.NoError(t, err)
	assert.Equal(t, spare, started.PID, "the spare shim executed the run")

	shimtest.Eventually(t, "the next one is prepared", func() bool { return e.launcher.SparePID() != 0 })
	spare = e.launcher.SparePID()
	require.NoError(t, unix.Kill(spare, unix.SIGKILL))
	run = queuedRun(r, "true")
	execute(t, e, r, run)
	got := awaitStatus(t, r, run, state.StatusStopped)
	assert.Equal(t, int64(0), *got.ExitCode, "a dead spare shim costs a little time, not the run")

	shimtest.Eventually(t, "the next one is prepared", func() bool { return e.launcher.SparePID() != 0 })
	spare = e.launcher.SparePID()
	stop()
	assert.True(t, limits.Gone(spare), "no shim is left waiting")
}
