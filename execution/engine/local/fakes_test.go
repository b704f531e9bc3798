package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim/shimtest"
	"github.com/stitchfix/flotilla-os/state"
)

// rows fakes the table of runs as an engine sees it, with the guards of the real one.
type rows struct {
	mu       sync.Mutex
	runs     map[string]state.Run
	starts   map[string]int // committed intents per run
	beats    int
	returned []string
	// fail makes the next calls fail.
	fail int
}

var (
	_ Store           = (*rows)(nil)
	_ engine.Observer = (*rows)(nil)
)

func newRows() *rows { return &rows{runs: map[string]state.Run{}, starts: map[string]int{}} }

var errAway = errors.New("the database is away")

func (r *rows) failing() error {
	if r.fail > 0 {
		r.fail--
		return errAway
	}
	return nil
}

func (r *rows) add(run state.Run) { r.change(run.RunID, func(row *state.Run) { *row = run }) }

func (r *rows) change(id string, do func(*state.Run)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	run := r.runs[id]
	do(&run)
	r.runs[id] = run
}

func (r *rows) get(id string) state.Run {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.runs[id]
}

// accept fakes AcceptRun.
func (r *rows) accept(id string) func(context.Context, state.Acceptance) (bool, error) {
	return func(_ context.Context, a state.Acceptance) (bool, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		run := r.runs[id]
		if run.Status != state.StatusQueued {
			return run.Status == state.StatusPending && run.ClaimedBy != nil && *run.ClaimedBy == a.Node, nil
		}
		run.Status, run.ClaimedBy, run.InstanceID = state.StatusPending, &a.Node, a.InstanceID
		run.Memory, run.MemoryLimit, run.CPU, run.CPULimit = &a.Memory, &a.Limit.Memory, &a.CPU, &a.Limit.CPU
		r.runs[id] = run
		return true, nil
	}
}

func (r *rows) CommitStart(_ context.Context, id, node string) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.failing(); err != nil {
		return false, err
	}
	run := r.runs[id]
	if run.Status != state.StatusPending || *run.ClaimedBy != node || run.InstanceID != "" {
		return false, nil
	}
	run.InstanceID = node
	r.runs[id] = run
	r.starts[id]++
	return true, nil
}

func (r *rows) ReturnRun(_ context.Context, id, node string) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	run := r.runs[id]
	if run.Status != state.StatusPending || *run.ClaimedBy != node {
		return false, nil
	}
	run.Status, run.ClaimedBy, run.InstanceID = state.StatusQueued, nil, ""
	r.runs[id] = run
	r.returned = append(r.returned, id)
	return true, nil
}

func (r *rows) ActiveRuns(_ context.Context, key state.EngineKey, node, after string, limit int) ([]state.Run, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.failing(); err != nil {
		return nil, err
	}
	var found []state.Run
	for id, run := range r.runs {
		active := run.Status == state.StatusPending || run.Status == state.StatusRunning
		if active && run.EngineKey() == key && *run.ClaimedBy == node && id > after {
			found = append(found, run)
		}
	}
	slices.SortFunc(found, func(a, b state.Run) int { return compare(a.RunID, b.RunID) })
	return found[:min(limit, len(found))], nil
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (r *rows) StoppedAmong(_ context.Context, ids []string) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var over []string
	for _, id := range ids {
		if run, ok := r.runs[id]; !ok || run.Status == state.StatusStopped {
			over = append(over, id)
		}
	}
	return over, nil
}

func (r *rows) Heartbeat(context.Context, string, string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.beats++
	return nil
}

// Observe fakes MoveRun and AnnotateRun.
func (r *rows) Observe(_ context.Context, seen engine.Observation) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.failing(); err != nil {
		return err
	}
	run := r.runs[seen.RunID]
	if seen.Attempt != run.Attempt() || (seen.Status != "" && !run.Status.MayBecome(seen.Status)) {
		return nil
	}
	u := seen.Update
	run.StatusReason = u.StatusReason
	if seen.Status != "" {
		run.Status = seen.Status
	}
	if u.StartedAt != nil {
		run.StartedAt = u.StartedAt
	}
	run.FinishedAt, run.ExitCode, run.ExitReason, run.MaxMemoryUsed = u.FinishedAt, u.ExitCode, u.ExitReason, u.MaxMemoryUsed
	r.runs[seen.RunID] = run
	return nil
}

// fixedSize gives each run what its row requests.
type fixedSize struct{}

func (fixedSize) Resources(_ context.Context, _ state.Executable, run state.Run, _ state.Size) (adapter.Sized, error) {
	size := state.Size{Memory: 256, CPU: 250}
	if run.RequestedMemory != nil {
		size.Memory = *run.RequestedMemory
	}
	return adapter.Sized{Resources: adapter.Resources{Size: size, Limit: size}}, nil
}

func (fixedSize) Report(context.Context, state.Run, adapter.Sized) {}

const testCluster = "local"

func makeEngine(t *testing.T, dataDir string, store Store, change ...func(*Config)) *Engine {
	t.Helper()
	cfg := Config{
		ClusterName: testCluster, DataDir: dataDir, MemoryMB: 1024, CPUMillicores: 8000, TerminateGrace: time.Second,
		Sizer: fixedSize{}, Store: store, Logger: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&cfg)
	}
	e, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { e.limits.RemoveParents() })
	return e
}

// follow runs Follow until the test ends or stop is called.
func follow(t *testing.T, e *Engine, o engine.Observer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Follow(ctx, o) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			require.NoError(t, <-done)
		})
	}
	t.Cleanup(stop)
	return stop
}

func driving(t *testing.T, e *Engine) {
	t.Helper()
	shimtest.Eventually(t, "the engine drives its folder", e.driving.Load)
}

// queuedRun adds a QUEUED run to the rows.
func queuedRun(r *rows, script string, change ...func(*state.Run)) state.Run {
	run := state.Run{
		RunID: "eks-" + uuid.NewString()[4:], ClusterName: testCluster, Status: state.StatusQueued,
		Command: &script, QueuedAt: new(time.Now()),
	}
	for _, c := range change {
		c(&run)
	}
	r.add(run)
	return run
}

func execute(t *testing.T, e *Engine, r *rows, run state.Run) {
	t.Helper()
	require.NoError(t, e.Execute(t.Context(), engine.Submission{Run: run, Accept: r.accept(run.RunID)}))
}

func awaitStatus(t *testing.T, r *rows, run state.Run, status state.Status) state.Run {
	t.Helper()
	shimtest.Eventually(t, fmt.Sprintf("run %s %s", run.RunID, status), func() bool { return r.get(run.RunID).Status == status })
	return r.get(run.RunID)
}

func logOf(t *testing.T, e *Engine, run state.Run) string {
	t.Helper()
	chunk, err := e.Logs(t.Context(), run, engine.LogQuery{Limit: 1 << 20})
	require.NoError(t, err)
	return string(chunk.Data)
}
