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
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rows is a table of clusters.
type rows struct {
	mu    sync.Mutex
	rows  []state.Cluster
	err   error
	reads int
}

var _ engine.ClusterLister = (*rows)(nil)

func (r *rows) ListClusters(context.Context) ([]state.Cluster, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reads++
	return r.rows, r.err
}

func (r *rows) set(err error, clusters ...state.Cluster) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows, r.err = clusters, err
}

// named is an engine that is only somebody.
type named struct {
	engine.Engine
	cluster state.Cluster
}

// clock is moved by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func openNamed(_ context.Context, c state.Cluster) (engine.Engine, error) {
	return &named{cluster: c}, nil
}

type open = func(context.Context, state.Cluster) (engine.Engine, error)

func makeClusters(t *testing.T, store *rows, opens open, configured ...state.Cluster) (*engine.Clusters, *clock) {
	t.Helper()
	clk := &clock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	clusters, err := engine.NewClusters(engine.ClustersConfig{
		Store: store, Configured: configured, Open: opens, Logger: slog.New(slog.DiscardHandler), Clock: clk.Now,
	})
	require.NoError(t, err)
	return clusters, clk
}

func cluster(id, name string) state.Cluster {
	return state.Cluster{ID: id, Name: name, Driver: state.DriverKubernetes, Status: state.ClusterActive}
}

func TestClustersList(t *testing.T) {
	t.Parallel()
	local := state.Cluster{ID: "cfg-local", Name: "local", Driver: state.DriverLocal}
	tests := map[string]struct {
		configured, rows []state.Cluster
		want             []string // ids
	}{
		"nothing anywhere is an empty list": {nil, nil, nil},
		"configured clusters and rows are one list": {
			[]state.Cluster{cluster("cfg-a", "a")}, []state.Cluster{cluster("1", "b")}, []string{"cfg-a", "1"}},
		"a row takes the place of a configured cluster of its name": {
			[]state.Cluster{cluster("cfg-a", "a")}, []state.Cluster{cluster("7", "a")}, []string{"7"}},
		"a local cluster of the configuration stays": {
			[]state.Cluster{local}, []state.Cluster{cluster("7", "local")}, []string{"cfg-local"}},
		"of rows with one name the lowest number counts": {
			nil, []state.Cluster{cluster("10", "a"), cluster("9", "a"), cluster("2", "b")}, []string{"2", "9"}},
		"the lowest number counts where a configured cluster has the name too": {
			[]state.Cluster{cluster("cfg-a", "a")}, []state.Cluster{cluster("10", "a"), cluster("9", "a")}, []string{"9"}},
		"a name configured twice counts once": {
			[]state.Cluster{cluster("cfg-a", "a"), cluster("cfg-a", "a")}, nil, []string{"cfg-a"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clusters, _ := makeClusters(t, &rows{rows: tt.rows}, openNamed, tt.configured...)
			listed, err := clusters.List(t.Context())
			require.NoError(t, err)
			var ids []string
			for _, c := range listed {
				ids = append(ids, c.ID)
			}
			assert.Equal(t, tt.want, ids)
		})
	}
}

func TestClustersListIsRead(t *testing.T) {
	t.Parallel()
	store := &rows{}
	clusters, clk := makeClusters(t, store, openNamed)
	reads := func() int {
		_, err := clusters.List(t.Context())
		require.NoError(t, err)
		return store.reads
	}
	assert.Equal(t, 1, reads(), "at first")
	clk.advance(engine.DefaultRefresh - time.Millisecond)
	assert.Equal(t, 1, reads(), "not while it is fresh")
	clk.advance(time.Millisecond)
	assert.Equal(t, 2, reads(), "again when it is old")
	clusters.Invalidate()
	assert.Equal(t, 3, reads(), "again when somebody changed it")
}

func TestClustersEngine(t *testing.T) {
	t.Parallel()
	store := &rows{rows: []state.Cluster{cluster("1", "a")}}
	clusters, clk := makeClusters(t, store, openNamed)
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
	store.set(nil, offline)
	clusters.Invalidate()
	assert.Same(t, first, get(), "the engine does not depend on the status")

	moved := cluster("1", "a")
	moved.Region = "eu-west-1"
	store.set(nil, moved)
	clusters.Invalidate()
	second := get()
	assert.NotSame(t, first, second, "a cluster changed in what counts is opened again")

	store.set(errors.New("no database"))
	clk.advance(engine.DefaultRefresh)
	assert.Same(t, second, get(), "engines outlive a database that is away")

	store.set(nil)
	clusters.Invalidate()
	assert.Same(t, second, get(), "a deleted cluster keeps its engine for the runs that it has")

	_, err := clusters.Engine(t.Context(), "unknown")
	assert.ErrorAs(t, err, &state.MissingResource{})
}

func TestClustersEngineThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	var opened int
	fail := true
	clusters, clk := makeClusters(t, &rows{rows: []state.Cluster{cluster("1", "a")}},
		func(ctx context.Context, c state.Cluster) (engine.Engine, error) {
			opened++
			if fail {
				return nil, engine.NotNow{Reason: "no driver"}
			}
			return openNamed(ctx, c)
		})
	for range 3 {
		_, err := clusters.Engine(t.Context(), "a")
		assert.ErrorAs(t, err, &engine.NotNow{})
	}
	assert.Equal(t, 1, opened, "not tried again at once")
	fail = false
	clk.advance(engine.DefaultRefresh)
	_, err := clusters.Engine(t.Context(), "a")
	assert.NoError(t, err, "tried again later")
}

func TestClustersEngineThatHangs(t *testing.T) {
	t.Parallel()
	hangs := make(chan struct{})
	clusters, _ := makeClusters(t, &rows{rows: []state.Cluster{cluster("1", "dead"), cluster("2", "alive")}},
		func(ctx context.Context, c state.Cluster) (engine.Engine, error) {
			if c.Name == "dead" {
				close(hangs)
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return openNamed(ctx, c)
		})
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
