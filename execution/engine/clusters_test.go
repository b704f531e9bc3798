package engine_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// known is the list of clusters.
type known struct {
	mu   sync.Mutex
	list []state.Cluster
	err  error
}

func (k *known) get(context.Context) ([]state.Cluster, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.list, k.err
}

func (k *known) set(err error, clusters ...state.Cluster) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list, k.err = clusters, err
}

// named is an engine that keeps how it was opened.
type named struct {
	engine.Engine
	cluster state.Cluster
	kind    string
	closed  atomic.Int64
}

// Close counts how often the engine was closed.
func (n *named) Close() { n.closed.Add(1) }

func openNamed(_ context.Context, c state.Cluster, kind string) (engine.Engine, error) {
	return &named{cluster: c, kind: kind}, nil
}

type open = func(context.Context, state.Cluster, string) (engine.Engine, error)

// keyOf returns the key of a cluster's container jobs.
func keyOf(name string) state.EngineKey {
	return state.EngineKey{Cluster: name, Engine: state.EKSEngine}
}

func makeClusters(t *testing.T, opens open, list ...state.Cluster) (*engine.Clusters, *known, *testkit.Clock) {
	t.Helper()
	clk := testkit.NewClock(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	all := &known{list: list}
	clusters, err := engine.NewClusters(engine.ClustersConfig{
		Known: all.get, Open: opens, Logger: slog.New(slog.DiscardHandler), Clock: clk.Now,
	})
	require.NoError(t, err)
	return clusters, all, clk
}

func cluster(id, name string) state.Cluster {
	return state.Cluster{ID: id, Name: name, Driver: state.DriverKubernetes, Status: state.ClusterActive}
}

func TestClustersEngine(t *testing.T) {
	t.Parallel()
	clusters, all, _ := makeClusters(t, openNamed, cluster("1", "a"))
	get := func() engine.Engine {
		t.Helper()
		eng, err := clusters.Engine(t.Context(), keyOf("a"))
		require.NoError(t, err)
		return eng
	}
	first := get()
	assert.Same(t, first, get(), "one engine per cluster")

	offline := cluster("1", "a")
	offline.Status, offline.StatusReason = state.ClusterOffline, "upgrade"
	all.set(nil, offline)
	assert.Same(t, first, get(), "the engine does not depend on the status")

	moved := cluster("1", "a")
	moved.Region = "eu-west-1"
	all.set(nil, moved)
	second := get()
	assert.NotSame(t, first, second, "a cluster changed in what counts is opened again")
	assert.EqualValues(t, 1, first.(*named).closed.Load(), "the replaced engine is closed")

	all.set(errors.New("no database"))
	assert.Same(t, second, get(), "engines survive an unreachable database")

	all.set(nil)
	assert.Same(t, second, get(), "a deleted cluster keeps its engine for the runs that it has")

	_, err := clusters.Engine(t.Context(), keyOf("unknown"))
	assert.ErrorAs(t, err, &state.MissingResource{})

	clusters.Drop(keyOf("a"))
	clusters.Drop(keyOf("a"))
	assert.EqualValues(t, 1, second.(*named).closed.Load())
	_, err = clusters.Engine(t.Context(), keyOf("a"))
	assert.ErrorAs(t, err, &state.MissingResource{}, "a dropped engine is gone")
	all.set(nil, moved)
	third := get()
	assert.NotSame(t, second, third, "a cluster that comes back is opened anew")
	clusters.Close()
	assert.EqualValues(t, 1, third.(*named).closed.Load())
}

func TestEnginesAreOfAClusterAndAKindOfRuns(t *testing.T) {
	t.Parallel()
	clusters, _, _ := makeClusters(t, openNamed, cluster("1", "a"), cluster("2", "b"))
	seen := map[engine.Engine]bool{}
	for _, key := range []state.EngineKey{
		keyOf("a"), keyOf("b"), {Cluster: "a", Engine: state.EKSSparkEngine},
	} {
		eng, err := clusters.Engine(t.Context(), key)
		require.NoError(t, err)
		made := eng.(*named)
		assert.Equal(t, key, state.EngineKey{Cluster: made.cluster.Name, Engine: made.kind})
		seen[eng] = true
	}
	assert.Len(t, seen, 3)
}

// The engine of a cluster that was given another driver must not go on beside
// the new one, even if the new one cannot be opened.
func TestAClusterWithAnotherDriverLosesItsEngine(t *testing.T) {
	t.Parallel()
	clusters, all, _ := makeClusters(t, func(ctx context.Context, c state.Cluster, kind string) (engine.Engine, error) {
		if c.Driver == state.DriverLocal {
			return nil, engine.NotNow{Reason: "no such driver"}
		}
		return openNamed(ctx, c, kind)
	}, cluster("1", "a"))
	first, err := clusters.Engine(t.Context(), keyOf("a"))
	require.NoError(t, err)
	other := cluster("1", "a")
	other.Driver = state.DriverLocal
	all.set(nil, other)
	_, err = clusters.Engine(t.Context(), keyOf("a"))
	require.ErrorAs(t, err, &engine.NotNow{})
	assert.EqualValues(t, 1, first.(*named).closed.Load())
}

func TestClustersEngineThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	var opened int
	fail := true
	clusters, _, clk := makeClusters(t, func(ctx context.Context, c state.Cluster, kind string) (engine.Engine, error) {
		opened++
		if fail {
			return nil, engine.NotNow{Reason: "no driver"}
		}
		return openNamed(ctx, c, kind)
	}, cluster("1", "a"))
	for range 3 {
		_, err := clusters.Engine(t.Context(), keyOf("a"))
		assert.ErrorAs(t, err, &engine.NotNow{})
	}
	assert.Equal(t, 1, opened, "not tried again at once")
	fail = false
	clk.Advance(time.Minute)
	_, err := clusters.Engine(t.Context(), keyOf("a"))
	assert.NoError(t, err, "tried again later")
}

func TestClustersEngineThatHangs(t *testing.T) {
	t.Parallel()
	hangs := make(chan struct{})
	clusters, _, _ := makeClusters(t, func(ctx context.Context, c state.Cluster, kind string) (engine.Engine, error) {
		if c.Name == "dead" {
			close(hangs)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return openNamed(ctx, c, kind)
	}, cluster("1", "dead"), cluster("2", "alive"))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := clusters.Engine(ctx, keyOf("dead"))
		assert.ErrorIs(t, err, context.Canceled)
	})
	<-hangs
	_, err := clusters.Engine(t.Context(), keyOf("alive"))
	assert.NoError(t, err, "another cluster is not kept waiting")
	impatient, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	_, err = clusters.Engine(impatient, keyOf("dead"))
	assert.ErrorIs(t, err, context.DeadlineExceeded, "no caller waits longer than its context")
	cancel()
	wg.Wait()
}

// ageing is an engine that is outdated if its test sets it so.
type ageing struct {
	named
	outdated atomic.Bool
	asked    atomic.Int64
}

var _ engine.Ageing = (*ageing)(nil)

func (a *ageing) Outdated() bool {
	a.asked.Add(1)
	return a.outdated.Load()
}

func TestAnOutdatedEngineIsOpenedAnew(t *testing.T) {
	t.Parallel()
	var broken error
	clusters, _, clk := makeClusters(t, func(context.Context, state.Cluster, string) (engine.Engine, error) {
		if broken != nil {
			return nil, broken
		}
		return &ageing{}, nil
	}, cluster("1", "prod"))
	ask := func() *ageing {
		t.Helper()
		eng, err := clusters.Engine(t.Context(), keyOf("prod"))
		require.NoError(t, err)
		got, ok := eng.(*ageing)
		require.True(t, ok)
		return got
	}
	first := ask()
	first.outdated.Store(true)
	assert.Same(t, first, ask(), "it is not asked at every call")
	assert.Zero(t, first.asked.Load())

	clk.Advance(engine.AskOutdatedEvery)
	broken = errors.New("half a file")
	assert.Same(t, first, ask(), "what cannot be opened replaces nothing")
	assert.Same(t, first, ask())
	assert.EqualValues(t, 1, first.asked.Load())

	broken = nil
	clk.Advance(engine.AskOutdatedEvery)
	second := ask()
	assert.NotSame(t, first, second)
	clk.Advance(engine.AskOutdatedEvery)
	assert.Same(t, second, ask(), "it is up to date")
}
