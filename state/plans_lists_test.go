package state_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/seed"
)

func TestEveryListOfRunsIsServedByIndexes(t *testing.T) {
	t.Parallel()
	m, seen := newPlanned(t, newSeeded(t))
	day := func(ago int) []string {
		return []string{time.Now().AddDate(0, 0, -ago).UTC().Format(time.RFC3339)}
	}
	filters := map[string]map[string][]string{
		"no filter":                   nil,
		"a rare status":               {"status": {"RUNNING"}},
		"the usual status":            {"status": {"STOPPED"}},
		"two statuses":                {"status": {"QUEUED", "PENDING"}},
		"a big definition":            {"definition_id": {seed.BigDefinitionID}},
		"an unknown definition":       {"definition_id": {"none"}},
		"a definition and a status":   {"definition_id": {seed.BigDefinitionID}, "status": {"RUNNING"}},
		"a definition since a time":   {"definition_id": {seed.BigDefinitionID}, "queued_at_since": day(3)},
		"an executable":               {"executable_id": {seed.BigDefinitionID}},
		"a cluster":                   {"cluster_name": {"cluster-1"}},
		"an unknown cluster":          {"cluster_name": {"none"}},
		"queued since a day":          {"queued_at_since": day(1)},
		"queued between two times":    {"queued_at_since": day(10), "queued_at_until": day(9)},
		"started since a day":         {"started_at_since": day(1)},
		"finished since a day":        {"finished_at_since": day(1)},
		"one run":                     {"run_id": {"eks-1"}},
		"an idempotence key":          {"idempotence_key": {"key"}},
		"both engines":                {"engine": {"eks", "eks-spark"}},
		"old runs of a group of runs": {"group_name": {"analytics"}, "queued_at_until": day(80)},
	}
	for name, filter := range filters {
		t.Run(name, func(t *testing.T) {
			for _, sortBy := range []string{"", "run_id", "cluster_name", "status", "queued_at", "started_at", "finished_at"} {
				for _, order := range []string{state.OrderAscending, state.OrderDescending} {
					for _, limit := range []int{0, 20} {
						_, err := m.ListRuns(t.Context(), state.ListOptions{
							Limit: limit, SortBy: sortBy, Order: order, Filters: filter,
						})
						require.NoError(t, err)
					}
				}
			}
			_, err := m.ListRuns(t.Context(), state.ListOptions{Limit: state.DefaultListLimit, Filters: filter})
			require.NoError(t, err)
			requireNoScan(t, seen.take())
		})
	}
}

func TestDeletingADefinitionReadsNoOtherRuns(t *testing.T) {
	t.Parallel()
	m, seen := newPlanned(t, newSeeded(t))
	var conflict state.ConflictingResource
	require.ErrorAs(t, m.DeleteDefinition(t.Context(), seed.BigDefinitionID), &conflict)
	requireNoScan(t, seen.take())
}

func TestListsByEnvironmentAreServedByTheirIndex(t *testing.T) {
	t.Parallel()
	m, seen := newPlanned(t, newSeeded(t))
	for _, env := range [][]state.EnvVar{
		{{Name: state.ParentRunEnv, Value: seed.ParentRunID}},
		{{Name: "FLOTILLA_RUN_OWNER_ID", Value: "user7"}, {Name: "FLOTILLA_SERVER_MODE", Value: "prod"}},
		{{Name: "NONE", Value: "none"}},
	} {
		for _, limit := range []int{0, 1, state.DefaultListLimit} {
			_, err := m.ListRuns(t.Context(), state.ListOptions{Limit: limit, Env: env})
			require.NoError(t, err)
		}
	}
	requireNoScan(t, seen.take())
}
