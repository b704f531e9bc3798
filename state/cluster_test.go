package state_test

import (
	"sync"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

func TestClusters(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := newStore(t, func(c *state.ManagerConfig) { c.Clock = func() time.Time { return now } })
	require.NoError(t, s.CreateCluster(t.Context(), state.Cluster{
		Name: "sun", Region: "us", ClusterVersion: "1", StatusReason: "new", AllowedTiers: pq.StringArray{"1", "2"},
		Capabilities: pq.StringArray{"gpu"}, Namespace: "ns", EMRVirtualCluster: "emr", SparkServerURI: "http://spark",
		Driver: state.DriverLocal,
	}))
	require.NoError(t, s.CreateCluster(t.Context(), state.Cluster{Name: "moon", Region: "us"}))
	var conflict state.ConflictingResource
	require.ErrorAs(t, s.CreateCluster(t.Context(), state.Cluster{Name: "sun", Region: "eu"}), &conflict)

	clusters, err := s.ListClusters(t.Context())
	require.NoError(t, err)
	require.Len(t, clusters, 2)
	assert.Equal(t, state.Cluster{
		ID: clusters[0].ID, Name: "moon", Region: "us", Status: state.ClusterActive, StatusSince: clusters[0].StatusSince,
		AllowedTiers: pq.StringArray{}, Capabilities: pq.StringArray{}, UpdatedAt: clusters[0].UpdatedAt,
		Driver: state.DriverKubernetes,
	}, clusters[0])
	sun := clusters[1]
	assert.Equal(t, state.DriverLocal, sun.Driver)
	assert.True(t, sun.StatusSince.Equal(now))

	created := now
	now = now.Add(time.Hour)
	require.NoError(t, s.UpdateCluster(t.Context(), sun.ID, state.ClusterUpdate{
		Cluster: state.Cluster{Namespace: "other", Status: state.ClusterActive}, Set: state.Columns{"namespace", "status"},
	}))
	got, err := s.GetCluster(t.Context(), sun.ID)
	require.NoError(t, err)
	assert.True(t, got.StatusSince.Equal(created), "the status is what it was")
	assert.True(t, got.UpdatedAt.Equal(now))
	sun.Namespace, sun.UpdatedAt, sun.StatusSince = "other", got.UpdatedAt, got.StatusSince
	assert.Equal(t, sun, got, "what is absent stays")

	require.NoError(t, s.UpdateCluster(t.Context(), sun.ID, state.ClusterUpdate{
		Cluster: state.Cluster{Status: state.ClusterOffline, StatusReason: "broken"},
		Set:     state.Columns{"status", "allowed_tiers", "status_reason"},
	}))
	got, err = s.GetCluster(t.Context(), sun.ID)
	require.NoError(t, err)
	assert.True(t, got.StatusSince.Equal(now))
	assert.Equal(t, state.ClusterOffline, got.Status)
	assert.Empty(t, got.AllowedTiers)

	require.ErrorAs(t, s.UpdateCluster(t.Context(), sun.ID, state.ClusterUpdate{Cluster: state.Cluster{Name: "moon"}, Set: state.Columns{"name"}}), &conflict)
	require.NoError(t, s.UpdateCluster(t.Context(), sun.ID, state.ClusterUpdate{Cluster: state.Cluster{Name: "sun"}, Set: state.Columns{"name"}}))
	require.NoError(t, s.DeleteCluster(t.Context(), sun.ID))
	for _, id := range []string{sun.ID, "99999999999999999999", "abc", "", "cfg-local", "1; drop table task"} {
		var missing state.MissingResource
		_, err = s.GetCluster(t.Context(), id)
		require.ErrorAs(t, err, &missing, id)
		require.ErrorAs(t, s.UpdateCluster(t.Context(), id, state.ClusterUpdate{Cluster: state.Cluster{Namespace: "x"}, Set: state.Columns{"namespace"}}), &missing, id)
		require.ErrorAs(t, s.DeleteCluster(t.Context(), id), &missing, id)
	}
}

func TestOfClustersWithOneNameTheOldestCounts(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.exec(t, `INSERT INTO cluster_state (name, region) VALUES ('twin', 'first'), ('twin', 'second')`)
	clusters, err := s.ListClusters(t.Context())
	require.NoError(t, err)
	require.Len(t, clusters, 1)
	assert.Equal(t, "first", clusters[0].Region)
}

func TestOneOfManyClustersOfOneNameIsMade(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var wait sync.WaitGroup
	results := make(chan error, 8)
	for range cap(results) {
		wait.Go(func() { results <- s.CreateCluster(t.Context(), state.Cluster{Name: "one", Region: "us"}) })
	}
	wait.Wait()
	close(results)
	made := 0
	for err := range results {
		if err == nil {
			made++
		}
	}
	assert.Equal(t, 1, made)
}

func TestWorkersAreOnePerTypeWhateverTheTableHolds(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	// Each start of the old program inserts its rows again.
	for range 3 {
		s.exec(t, `INSERT INTO worker (worker_type, engine, count_per_instance) VALUES ('retry', 'eks', 1), ('submit', 'eks', 2)`)
	}
	counts := map[string]map[string]int{
		"eks":       {"retry": 7, "submit": 7, "status": 7},
		"eks-spark": {"status": 3},
	}
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() { assert.NoError(t, s.EnsureWorkers(t.Context(), counts)) })
	}
	wait.Wait()
	assert.Equal(t, 8, ask[int](t, s, `SELECT count(*) FROM worker`), "only what was missing is inserted")
	workers, err := s.ListWorkers(t.Context(), state.EKSEngine)
	require.NoError(t, err)
	assert.Equal(t, []state.Worker{
		{WorkerType: state.WorkerRetry, CountPerInstance: 1, Engine: "eks"},
		{WorkerType: state.WorkerStatus, CountPerInstance: 7, Engine: "eks"},
		{WorkerType: state.WorkerSubmit, CountPerInstance: 2, Engine: "eks"},
	}, workers)

	require.NoError(t, s.UpdateWorkers(t.Context(), []state.Worker{{WorkerType: state.WorkerStatus, CountPerInstance: 0}}))
	for _, engine := range []string{"eks", "eks-spark"} {
		w, err := s.GetWorker(t.Context(), engine, state.WorkerStatus)
		require.NoError(t, err)
		assert.Zero(t, w.CountPerInstance)
	}
	var missing state.MissingResource
	_, err = s.GetWorker(t.Context(), "eks", "unknown")
	require.ErrorAs(t, err, &missing)
}
