package state_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/seed"
)

func TestEveryLookupOfRunsIsServedByIndexes(t *testing.T) {
	t.Parallel()
	m, seen := newPlanned(t, newSeeded(t))
	hash := *md5Of(seed.BigCommand)
	const cluster, big = "cluster-1", seed.BigDefinitionID
	live, err := m.ListRuns(t.Context(), state.ListOptions{Limit: 1, Filters: map[string][]string{"status": {"RUNNING"}}})
	require.NoError(t, err)
	runID := live.Runs[0].RunID
	seen.take()
	for name, call := range map[string]func(ctx context.Context) error{
		"resources":       func(ctx context.Context) error { return ignoreMissing(m.EstimateRunResources(ctx, big, hash)) },
		"runtime":         func(ctx context.Context) error { return ignoreMissing(m.EstimateRuntime(ctx, big, hash)) },
		"executor count":  func(ctx context.Context) error { return ignoreMissing(m.EstimateExecutorCount(ctx, big, hash)) },
		"executor OOM":    func(ctx context.Context) error { return ignoreMissing(m.ExecutorOOM(ctx, big, hash)) },
		"driver OOM":      func(ctx context.Context) error { return ignoreMissing(m.DriverOOM(ctx, big, hash)) },
		"reattempt rate":  func(ctx context.Context) error { return ignoreMissing(m.ReattemptRate(ctx)) },
		"a run":           func(ctx context.Context) error { return ignoreMissing(m.GetRun(ctx, runID)) },
		"children":        func(ctx context.Context) error { return ignoreMissing(m.ListChildRuns(ctx, seed.ParentRunID)) },
		"active runs":     func(ctx context.Context) error { return ignoreMissing(m.ActiveRuns(ctx, cluster, "", "", 100)) },
		"stopped among":   func(ctx context.Context) error { return ignoreMissing(m.StoppedAmong(ctx, []string{runID, "none"})) },
		"overdue runs":    func(ctx context.Context) error { return ignoreMissing(m.OverdueRuns(ctx, time.Hour, 100)) },
		"queue depths":    func(ctx context.Context) error { return ignoreMissing(m.QueueDepths(ctx)) },
		"claims released": func(ctx context.Context) error { return m.ReleaseClaims(ctx, "worker") },
		"claims renewed":  func(ctx context.Context) error { return m.RenewClaims(ctx, "worker", []string{runID}, time.Minute) },
		"orphans":         func(ctx context.Context) error { return ignoreMissing(m.RequeueOrphans(ctx, time.Hour)) },
		"queued explained": func(ctx context.Context) error {
			return ignoreMissing(m.ExplainQueued(ctx, cluster, "why", 10))
		},
		"lost runs": func(ctx context.Context) error { return ignoreMissing(m.StopLost(ctx, cluster, time.Hour, 10)) },
		"retries": func(ctx context.Context) error {
			_, _, err := m.RequeueRetries(ctx, state.RetryPolicy{MaxAttempts: 3, BaseDelay: time.Second, MaxDelay: time.Minute, Limit: 10})
			return err
		},
		"adoption": func(ctx context.Context) error { return ignoreMissing(m.AdoptQueued(ctx, time.Hour)) },
		"claims": func(ctx context.Context) error {
			return ignoreMissing(m.ClaimRuns(ctx, state.ClaimRequest{Cluster: cluster, Worker: "w", Lease: time.Minute, Limit: 10}))
		},
		"a stop": func(ctx context.Context) error {
			_, _, err := m.StopRun(ctx, runID, "reason")
			return err
		},
		"an insert": func(ctx context.Context) error {
			run := state.Run{
				RunID: state.NewRunID(state.EKSEngine), DefinitionID: big, ExecutableID: new(string(big)), Engine: state.EKSEngine,
				ExecutableType: state.ExecutableTypeDefinition, ClusterName: cluster, Status: state.StatusQueued,
				IdempotenceKey: new("key"),
			}
			_, _, err := m.CreateRun(ctx, run)
			return err
		},
		"old runs": func(ctx context.Context) error {
			return ignoreMissing(m.DeleteOldRuns(ctx, time.Now().AddDate(0, 0, -89), 10))
		},
		"a definition's deletion": func(ctx context.Context) error {
			if err := m.DeleteDefinition(ctx, big); err == nil {
				t.Error("it has live runs")
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			// The planner may make another plan once it has seen some values.
			for range 7 {
				require.NoError(t, call(t.Context()))
			}
			requireNoScan(t, seen.take())
		})
	}
}

// ignoreMissing drops an answer, and the error that there is none.
func ignoreMissing[T any](_ T, err error) error {
	if _, ok := err.(state.MissingResource); ok {
		return nil
	}
	return err
}
