package services

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/testkit"
)

func TestClustersOfConfigurationAndTable(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(s *setup) { s.configured = []state.Cluster{{Name: "both"}, {Name: "mine"}, {Name: "mine"}} })
	b.exec(t, `INSERT INTO cluster_state (name, region, status) VALUES ('both', 'r', 'offline')`)
	list, err := b.clusters.List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 2, "a row takes precedence over the configuration of its name")
	assert.Equal(t, "cfg-mine", list[0].ID)
	assert.Equal(t, state.ClusterActive, list[0].Status)
	assert.Equal(t, state.ClusterOffline, list[1].Status)

	got, err := b.clusters.Get(t.Context(), "cfg-mine")
	require.NoError(t, err)
	assert.Equal(t, "mine", got.Name)
	var conflict state.ConflictingResource
	require.ErrorAs(t, b.clusters.Update(t.Context(), "cfg-mine", state.ClusterUpdate{}), &conflict)
	require.ErrorAs(t, b.clusters.Delete(t.Context(), "cfg-mine"), &conflict)
	require.ErrorAs(t, b.clusters.Create(t.Context(), state.Cluster{Name: "mine", Region: "r"}), &conflict)
	require.ErrorAs(t, b.clusters.Update(t.Context(), list[1].ID, state.ClusterUpdate{Cluster: state.Cluster{Name: "mine"}, Set: state.Columns{"name"}}), &conflict)
	require.NoError(t, b.clusters.Update(t.Context(), list[1].ID, state.ClusterUpdate{
		Cluster: state.Cluster{Name: "both", Status: state.ClusterActive}, Set: state.Columns{"name", "status"},
	}))
}

func TestClusterIDs(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, id := range []string{"", "abc", "cfg-none", "1e3", "+1", "01", "99999999999999999999", "1; drop table", "999", "-1"} {
		var missing state.MissingResource
		_, err := b.clusters.Get(t.Context(), id)
		assert.ErrorAs(t, err, &missing, id)
		assert.ErrorAs(t, b.clusters.Update(t.Context(), id, state.ClusterUpdate{Cluster: state.Cluster{Region: "r"}, Set: state.Columns{"region"}}), &missing, id)
		assert.ErrorAs(t, b.clusters.Delete(t.Context(), id), &missing, id)
	}
}

func TestChangeClusters(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	require.NoError(t, b.clusters.Create(t.Context(), state.Cluster{ID: "77", Name: "n", Region: "r", AllowedTiers: []string{"Tier1"}}))
	var conflict state.ConflictingResource
	require.ErrorAs(t, b.clusters.Create(t.Context(), state.Cluster{Name: "n", Region: "r"}), &conflict)
	c, ok, err := find(t, b.clusters, "n")
	require.NoError(t, err)
	require.True(t, ok)
	assert.NotEqual(t, "77", c.ID, "a sent id is ignored")
	assert.Equal(t, state.ClusterActive, c.Status)
	require.NoError(t, b.clusters.Delete(t.Context(), c.ID))
	_, ok, err = find(t, b.clusters, "n")
	require.NoError(t, err)
	assert.False(t, ok, "a server's own changes are visible at once")
	for _, event := range []string{"cluster_created", "cluster_deleted"} {
		assert.Contains(t, b.log.String(), event)
	}
}

func TestMalformedClusters(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	require.NoError(t, b.clusters.Create(t.Context(), state.Cluster{Name: "n", Region: "r"}))
	c, _, err := find(t, b.clusters, "n")
	require.NoError(t, err)
	cases := map[string]struct {
		cluster state.Cluster
		want    string
	}{
		"nothing given":       {state.Cluster{}, "name"},
		"no region":           {state.Cluster{Name: "x"}, "region"},
		"no such status":      {state.Cluster{Name: "x", Region: "r", Status: "broken"}, "status"},
		"NUL in a name":       {state.Cluster{Name: "a\x00", Region: "r"}, "NUL"},
		"a name that climbs":  {state.Cluster{Name: "../../etc/passwd", Region: "r"}, "slash"},
		"a name of 1 MB":      {state.Cluster{Name: strings.Repeat("x", 1<<20), Region: "r"}, "name"},
		"an empty tier":       {state.Cluster{Name: "x", Region: "r", AllowedTiers: []string{""}}, "allowed_tiers[0]"},
		"NUL in a capability": {state.Cluster{Name: "x", Region: "r", Capabilities: []string{"a", "\x00"}}, "NUL"},
		"a namespace of 1 MB": {state.Cluster{Name: "x", Region: "r", Namespace: strings.Repeat("x", 1<<20)}, "namespace"},
	}
	for name, k := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var malformed state.MalformedInput
			require.ErrorAs(t, b.clusters.Create(t.Context(), k.cluster), &malformed)
			assert.Contains(t, malformed.Message, k.want)
			require.ErrorAs(t, b.clusters.Update(t.Context(), c.ID, state.ClusterUpdate{
				Cluster: k.cluster, Set: state.Columns{"name", "region", "status", "allowed_tiers", "capabilities"},
			}), &malformed)
		})
	}
}

// slowClusters returns its clusters once release is closed, and counts the reads.
type slowClusters struct {
	ClusterStore
	mu      sync.Mutex
	reads   int
	release chan struct{}
	err     error
}

func (s *slowClusters) ListClusters(context.Context) ([]state.Cluster, error) {
	s.mu.Lock()
	s.reads++
	s.mu.Unlock()
	<-s.release
	return []state.Cluster{{ID: "1", Name: "n"}, {ID: "2", Name: "n", Status: state.ClusterOffline}}, s.err
}

func (s *slowClusters) seen() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

func TestManyRequestsReadTheClustersOnce(t *testing.T) {
	t.Parallel()
	store := &slowClusters{release: make(chan struct{})}
	clock := testkit.NewClock(time.Now())
	s, err := NewClusterService(ClusterConfig{Store: store, Logger: slog.New(slog.DiscardHandler), Clock: clock.Now})
	require.NoError(t, err)
	gone, cancel := context.WithCancel(t.Context())
	var requests sync.WaitGroup
	requests.Go(func() { _, err := s.Known(gone); assert.ErrorIs(t, err, context.Canceled) })
	require.Eventually(t, func() bool { return store.seen() == 1 }, 10*time.Second, time.Millisecond)
	cancel()
	requests.Wait()
	for range 8 {
		requests.Go(func() {
			known, err := s.Known(t.Context())
			assert.NoError(t, err)
			assert.Len(t, known, 1, "the lowest id wins among duplicates")
		})
	}
	close(store.release)
	requests.Wait()
	assert.LessOrEqual(t, store.seen(), 2)

	store.err = errors.New("down")
	clock.Advance(cacheAge)
	_, _, err = find(t, s, "n")
	require.ErrorIs(t, err, store.err)
}

// find returns a cluster by its name, and reports whether Known returns it.
func find(t *testing.T, s *ClusterService, name string) (state.Cluster, bool, error) {
	t.Helper()
	known, err := s.Known(t.Context(), name)
	for _, c := range known {
		if c.Name == name {
			return c, true, nil
		}
	}
	return state.Cluster{}, false, err
}
