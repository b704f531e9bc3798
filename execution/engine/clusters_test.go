package engine_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
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

// named is an engine that is only somebody.
type named struct {
	engine.Engine
	cluster state.Cluster
}

func openNamed(_ context.Context, c state.Cluster) (engine.Engine, error) {
	return &named{cluster: c}, nil
}

type open = func(context.Context, state.Cluster) (engine.Engine, error)

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
		eng, err := clusters.Engine(t.Context(), "a")
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

	all.set(errors.New("no database"))
	assert.Same(t, second, get(), "engines outlive a database that is away")

	all.set(nil)
	assert.Same(t, second, get(), "a deleted cluster keeps its engine for the runs that it has")

	_, err := clusters.Engine(t.Context(), "unknown")
	assert.ErrorAs(t, err, &state.MissingResource{})
}

func TestClustersEngineThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	var opened int
	fail := true
	clusters, _, clk := makeClusters(t, func(ctx context.Context, c state.Cluster) (engine.Engine, error) {
		opened++
		if fail {
			return nil, engine.NotNow{Reason: "no driver"}
		}
		return openNamed(ctx, c)
	}, cluster("1", "a"))
	for range 3 {
		_, err := clusters.Engine(t.Context(), "a")
		assert.ErrorAs(t, err, &engine.NotNow{})
	}
	assert.Equal(t, 1, opened, "not tried again at once")
	fail = false
	clk.Advance(time.Minute)
	_, err := clusters.Engine(t.Context(), "a")
	assert.NoError(t, err, "tried again later")
}

func TestClustersEngineThatHangs(t *testing.T) {
	t.Parallel()
	hangs := make(chan struct{})
	clusters, _, _ := makeClusters(t, func(ctx context.Context, c state.Cluster) (engine.Engine, error) {
		if c.Name == "dead" {
			close(hangs)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return openNamed(ctx, c)
	}, cluster("1", "dead"), cluster("2", "alive"))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := clusters.Engine(ctx, "dead")
		assert.ErrorIs(t, err, context.Canceled)
	})
	<-hangs
	_, err := clusters.Engine(t.Context(), "alive")
	assert.NoError(t, err, "another cluster is not kept waiting")
	impatient, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	_, err = clusters.Engine(impatient, "dead")
	assert.ErrorIs(t, err, context.DeadlineExceeded, "nobody waits longer than they wish to")
	cancel()
	wg.Wait()
}
