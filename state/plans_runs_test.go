package state_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/seed"
)

func TestNothingThatMovesRunsReadsTheWholeTable(t *testing.T) {
	t.Parallel()
	url := newSeeded(t)
	addUnknownCluster(t, url)
	m, seen := newPlanned(t, url)
	now := time.Now()
	for name, call := range map[string]func(ctx context.Context) error{
		"claim": func(ctx context.Context) error {
			_, err := m.ClaimRuns(ctx, state.ClaimRequest{EngineKey: testKey, Worker: "w", Lease: time.Second, Limit: 10})
			return err
		},
		"renew":   func(ctx context.Context) error { return m.RenewClaims(ctx, "w", []string{"a"}, time.Second) },
		"release": func(ctx context.Context) error { return m.ReleaseClaims(ctx, "w") },
		"defer":   func(ctx context.Context) error { return m.DeferRun(ctx, "a", "w", "later", now) },
		"explain": func(ctx context.Context) error {
			_, err := m.ExplainQueued(ctx, testKey, "why", 10)
			return err
		},
		"accept": func(ctx context.Context) error {
			_, err := m.AcceptRun(ctx, "a", "w", state.Acceptance{})
			return err
		},
		"move": func(ctx context.Context) error {
			_, err := m.MoveRun(ctx, "a", 1, state.StatusRunning, state.RunUpdate{})
			return err
		},
		"retries": func(ctx context.Context) error {
			_, _, err := m.RequeueRetries(ctx, state.RetryPolicy{MaxAttempts: 3, Limit: 10, Engines: testEngines})
			return err
		},
		"orphans": func(ctx context.Context) error {
			_, err := m.RequeueOrphans(ctx, time.Minute)
			return err
		},
		"lost": func(ctx context.Context) error {
			_, err := m.StopLost(ctx, testKey, time.Minute, 10)
			return err
		},
		"overdue": func(ctx context.Context) error {
			_, err := m.OverdueRuns(ctx, testEngines, time.Minute, 10)
			return err
		},
		"active": func(ctx context.Context) error {
			_, err := m.ActiveRuns(ctx, testKey, "", "", 10)
			return err
		},
		"stopped": func(ctx context.Context) error {
			_, err := m.StoppedAmong(ctx, []string{"a"})
			return err
		},
		"depths": func(ctx context.Context) error {
			_, err := m.QueueDepths(ctx)
			return err
		},
		"children": func(ctx context.Context) error {
			_, err := m.ListChildRuns(ctx, "a")
			return err
		},
	} {
		require.NoError(t, call(t.Context()), name)
		plans := seen.take()
		requireNoScan(t, plans)
		for _, used := range indexesOf(t, plans) {
			assert.Contains(t, ofLiveRuns, used, "%s reads through an index of all runs:\n%s", name, plans)
		}
	}
}

// ofLiveRuns are the indexes by which a statement reads some runs by their ids, or runs that are not over.
var ofLiveRuns = []string{"task_pkey", "flotilla_task_live", "flotilla_task_status", "flotilla_task_env", "flotilla_node_pkey"}

// addUnknownCluster adds the queue of a cluster that the planner has no statistics of.
func addUnknownCluster(t *testing.T, url string) {
	t.Helper()
	db, err := sql.Open("postgres", url)
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	_, err = db.ExecContext(t.Context(), `INSERT INTO task (run_id, definition_id, cluster_name, status, engine, queued_at)
		SELECT 'eks-' || gen_random_uuid(), 'd', $1, 'QUEUED', 'eks', now() FROM generate_series(1, 2000)`, testCluster)
	require.NoError(t, err)
}

func TestNoLookupOfHistoryReadsTheWholeTable(t *testing.T) {
	t.Parallel()
	m, seen := newPlanned(t, newSeeded(t))
	hash := *md5Of(seed.BigCommand)
	for name, call := range map[string]func(ctx context.Context) error{
		"resources": func(ctx context.Context) error {
			_, err := m.EstimateRunResources(ctx, seed.BigDefinitionID, hash)
			return err
		},
		"runtime": func(ctx context.Context) error {
			_, err := m.EstimateRuntime(ctx, seed.BigDefinitionID, hash)
			return err
		},
		"reattempts": func(ctx context.Context) error {
			_, err := m.ReattemptRate(ctx)
			return err
		},
		"executors": func(ctx context.Context) error {
			_, err := m.ExecutorOOM(ctx, seed.BigDefinitionID, hash)
			return err
		},
		"idempotence key": func(ctx context.Context) error {
			_, _, err := m.CreateRun(ctx, makeRun(func(r *state.Run) {
				r.ExecutableType, r.IdempotenceKey = state.ExecutableTypeTemplate, new("key")
			}))
			return err
		},
		"verification": func(ctx context.Context) error {
			_, err := m.VerifyARA(ctx, time.Now().Add(-time.Hour))
			return err
		},
		"retention": func(ctx context.Context) error {
			_, err := m.DeleteOldRuns(ctx, time.Now().Add(-10000*time.Hour), 10)
			return err
		},
		"runs of deleted definitions": func(ctx context.Context) error {
			_, err := m.DeleteOrphanRuns(ctx, 10)
			return err
		},
	} {
		err := call(t.Context())
		if name != "resources" && name != "runtime" {
			require.NoError(t, err, name)
		}
		requireNoScan(t, seen.take())
	}
}

func TestARAReadsItsIndexAlone(t *testing.T) {
	t.Parallel()
	m, seen := newPlanned(t, newSeeded(t))
	_, err := m.EstimateRunResources(t.Context(), seed.BigDefinitionID, *md5Of(seed.BigCommand))
	require.NoError(t, err)
	var nodes []planNode
	for _, text := range seen.take() {
		var explained struct{ Plan planNode }
		require.NoError(t, json.Unmarshal([]byte(text), &explained), text)
		explained.Plan.visit(func(n planNode) {
			if n.IndexName != "" || n.RelationName != "" {
				nodes = append(nodes, n)
			}
		})
	}
	require.Equal(t, []planNode{{NodeType: "Index Only Scan", RelationName: "task", IndexName: "flotilla_task_killed"}}, nodes)
}
