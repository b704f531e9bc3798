package services

import (
	"bytes"
	"context"
	"database/sql"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/statetest"
	"github.com/stitchfix/flotilla-os/testkit"
)

// testCluster is the default cluster of these tests.
const testCluster = "moon"

// bench holds the services on a real database, with a fake cluster.
type bench struct {
	*state.Manager
	db          *sql.DB
	definitions *DefinitionService
	executions  *ExecutionService
	templates   *TemplateService
	clusters    *ClusterService
	workers     *WorkerService
	logs        *LogService
	engine      *fakeEngine
	waker       *countingWaker
	log         *testkit.Log
	clock       *testkit.Clock
}

type setup struct {
	config     config.Config
	configured []state.Cluster
	store      func(ExecutionStore) ExecutionStore
}

func newBench(t testing.TB, changes ...func(*setup)) *bench {
	t.Helper()
	manager, url := statetest.NewManager(t)
	db, err := sql.Open("postgres", url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })

	set := setup{config: config.Default(), configured: []state.Cluster{{Name: testCluster}}}
	set.config.EKS.ClusterDefault = testCluster
	set.store = func(s ExecutionStore) ExecutionStore { return s }
	for _, change := range changes {
		change(&set)
	}
	b := &bench{Manager: manager, db: db, engine: &fakeEngine{}, waker: &countingWaker{}, log: &testkit.Log{}, clock: testkit.NewClock(time.Now())}
	logger := slog.New(slog.NewJSONHandler(b.log, nil))
	engines := engineMap{testCluster: b.engine}
	b.clusters, err = NewClusterService(ClusterConfig{Store: manager, Configured: set.configured, Logger: logger, Clock: b.clock.Now})
	require.NoError(t, err)
	b.executions, err = NewExecutionService(ExecutionConfig{
		Store: set.store(manager), Clusters: b.clusters, Engines: engines, Waker: b.waker,
		Metrics: metrics.Nop{}, Logger: logger, Clock: b.clock.Now,
		Mode: set.config.Mode, OwnerIDVar: set.config.OwnerIDVar, TierDefault: set.config.EKS.TierDefault,
		DefaultCluster: set.config.EKS.ClusterDefault, GPUDefaultCluster: set.config.EKS.GPUClusterDefault,
		Spot: SpotPolicy{
			Never: set.config.EKS.SpotOverride, ReattemptShare: set.config.EKS.SpotReattemptOverride,
			LongMinutes: set.config.EKS.SpotThresholdMinutes,
		},
		Deadlines: set.config.Deadlines, MetricsServerURI: set.config.EKS.MetricsServerURI,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.executions.Close(context.Background())) })
	b.definitions, err = NewDefinitionService(DefinitionConfig{Store: manager, Logger: logger, OwnerIDVar: set.config.OwnerIDVar})
	require.NoError(t, err)
	b.templates, err = NewTemplateService(TemplateConfig{
		Store: manager, Execution: b.executions, Logger: logger, OwnerIDVar: set.config.OwnerIDVar,
		DefaultSize: state.Size{Memory: set.config.ARA.MinMemory, CPU: set.config.ARA.MinCPU},
	})
	require.NoError(t, err)
	b.workers, err = NewWorkerService(WorkerConfig{Store: manager, Logger: logger})
	require.NoError(t, err)
	b.logs, err = NewLogService(LogConfig{Store: manager, Engines: engines, Logger: logger, FollowInterval: time.Millisecond})
	require.NoError(t, err)
	return b
}

// definition stores a definition; change may be nil.
func (b *bench) definition(t testing.TB, change func(*state.Definition)) state.Definition {
	t.Helper()
	d := state.Definition{Alias: state.NewDefinitionID("alias"), Image: "busybox", GroupName: "tests", Command: new("echo definition")}
	if change != nil {
		change(&d)
	}
	created, err := b.definitions.Create(t.Context(), d)
	require.NoError(t, err)
	return created
}

// run queues a run of a definition.
func (b *bench) run(t testing.TB, d state.Definition, common state.ExecutionRequestCommon) state.Run {
	t.Helper()
	created, err := b.executions.CreateFromDefinition(t.Context(), DefinitionRef{ID: d.DefinitionID}, request(common))
	require.NoError(t, err)
	return created.Run
}

func (b *bench) exec(t testing.TB, text string, args ...any) {
	t.Helper()
	_, err := b.db.ExecContext(t.Context(), text, args...)
	require.NoError(t, err)
}

func request(common state.ExecutionRequestCommon) *state.DefinitionExecutionRequest {
	return &state.DefinitionExecutionRequest{ExecutionRequestCommon: &common}
}

type countingWaker struct {
	mu    sync.Mutex
	count int
}

func (w *countingWaker) Wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count++
}

func (w *countingWaker) woken() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count
}

// engineMap is an EngineRegistry of the engines of clusters by name.
type engineMap map[string]engine.Engine

func (m engineMap) Engine(_ context.Context, key state.EngineKey) (engine.Engine, error) {
	e, ok := m[key.Cluster]
	if !ok {
		return nil, engine.NotNow{Reason: "no engine for cluster " + key.Cluster}
	}
	return e, nil
}

// fakeEngine returns what a test puts in.
type fakeEngine struct {
	mu         sync.Mutex
	log        []byte
	chunk      int64
	events     state.PodEvents
	eventsErr  error
	manifest   []byte
	terminated []string
	running    bool // the log is not complete
	logsErr    error
	queries    []engine.LogQuery
}

var _ engine.Engine = (*fakeEngine)(nil)

func (e *fakeEngine) Execute(context.Context, engine.Submission) error { return nil }

func (e *fakeEngine) Terminate(_ context.Context, run state.Run) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.terminated = append(e.terminated, run.RunID)
	return nil
}

func (e *fakeEngine) ended() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.terminated...)
}

func (e *fakeEngine) Events(context.Context, state.Run) (state.PodEvents, error) {
	return e.events, e.eventsErr
}

func (e *fakeEngine) write(text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.log = append(e.log, text...)
}

func (e *fakeEngine) Logs(_ context.Context, _ state.Run, q engine.LogQuery) (engine.LogChunk, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queries = append(e.queries, q)
	if e.logsErr != nil {
		return engine.LogChunk{}, e.logsErr
	}
	start := min(q.Offset, int64(len(e.log)))
	end := min(start+q.Limit, int64(len(e.log)))
	if e.chunk > 0 {
		end = min(end, start+e.chunk)
	}
	return engine.LogChunk{Data: bytes.Clone(e.log[start:end]), Next: end, Complete: end == int64(len(e.log)) && !e.running}, nil
}

func (e *fakeEngine) Manifest(context.Context, state.Run) ([]byte, error) {
	if e.manifest == nil {
		return nil, state.Missingf("there is no manifest")
	}
	return e.manifest, nil
}

func (e *fakeEngine) Follow(ctx context.Context, _ engine.Observer) error {
	<-ctx.Done()
	return nil
}
