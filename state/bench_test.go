package state_test

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/seed"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

// fewRuns is the length of the history that a large one is compared with.
const fewRuns = 10_000

// benchHistory returns a Manager of a database with n runs, and the database.
func benchHistory(b *testing.B, n int) (*state.Manager, *sqlx.DB) {
	b.Helper()
	db := pgtest.New(b)
	require.NoError(b, statetest.SeedHistory(b.Context(), db.URL, n))
	return statetest.Open(b, db.URL), sqlx.NewDb(db.Open(b), "postgres")
}

// median reports the median time of call in ms, and returns it.
func median(b *testing.B, call func(ctx context.Context) error) time.Duration {
	b.Helper()
	require.NoError(b, call(b.Context())) // The first one opens the connection.
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		require.NoError(b, call(b.Context()))
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	middle := took[len(took)/2]
	b.ReportMetric(float64(middle.Microseconds())/1000, "median-ms")
	return middle
}

// oldLookup looks up the resources of a run as before the hash was an argument: by way of the run, and without an index
// of the killed runs.
const oldLookup = `
SELECT CAST((percentile_disc(0.99) WITHIN GROUP (ORDER BY memory)) * 1.75 AS int) AS memory,
       CAST((percentile_disc(0.99) WITHIN GROUP (ORDER BY cpu)) * 1.25 AS int) AS cpu
FROM (
	SELECT memory, cpu
	FROM task
	WHERE queued_at >= CURRENT_TIMESTAMP - INTERVAL '3 days'
	  AND (exit_code = 137 OR exit_reason = 'OOMKilled')
	  AND engine = 'eks'
	  AND definition_id = $1
	  AND command_hash = (SELECT command_hash FROM task WHERE run_id = $2)
	LIMIT 30
) AS killed`

// BenchmarkARALookup looks up the resources of the definition that owns a quarter of all runs, with a small and a large
// history.
func BenchmarkARALookup(b *testing.B) {
	sum := md5.Sum([]byte(seed.BigCommand))
	hash := hex.EncodeToString(sum[:])
	var few, many time.Duration
	b.Run("few runs", func(b *testing.B) {
		m, db := benchHistory(b, fewRuns)
		ensureKilled(b, db, hash)
		few = median(b, func(ctx context.Context) error {
			_, err := m.EstimateRunResources(ctx, seed.BigDefinitionID, hash)
			return err
		})
	})
	m, db := benchHistory(b, statetest.BenchRuns(b))
	ensureKilled(b, db, hash)
	b.Run("many runs", func(b *testing.B) {
		many = median(b, func(ctx context.Context) error {
			_, err := m.EstimateRunResources(ctx, seed.BigDefinitionID, hash)
			return err
		})
		b.ReportMetric(float64(many)/float64(few), "many/few")
		reportLookup(b, few, many)
	})
	b.Run("old query, many runs", func(b *testing.B) {
		old := benchOldLookup(b, db, hash)
		b.ReportMetric(float64(old)/float64(many), "old/new")
		pgtest.Result{
			What:     fmt.Sprintf("the lookup of before, %d runs", statetest.BenchRuns(b)),
			Measured: ms(old), Reference: fmt.Sprintf("%.0f times the lookup", float64(old)/float64(many)),
		}.Report(b)
	})
}

// Bounds of the median of the lookup, and of its ratio between many runs and few.
const (
	mostLookup      = time.Millisecond
	mostLookupRatio = 3.0
)

func reportLookup(b *testing.B, few, many time.Duration) {
	b.Helper()
	ratio := float64(many) / float64(few)
	pgtest.Result{
		What:     fmt.Sprintf("ARA's lookup, %d runs", statetest.BenchRuns(b)),
		Measured: ms(many), Goal: "< " + ms(mostLookup), Missed: many >= mostLookup,
		Reference: fmt.Sprintf("%d runs: %s", fewRuns, ms(few)),
	}.Report(b)
	pgtest.Result{
		What: "ARA's lookup, many runs by few", Measured: fmt.Sprintf("%.1f", ratio),
		Goal: fmt.Sprintf("<= %.1f", mostLookupRatio), Missed: ratio > mostLookupRatio,
	}.Report(b)
}

// ms formats a duration.
func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }

// ensureKilled gives the command more kills than the lookup reads.
func ensureKilled(b *testing.B, db *sqlx.DB, hash string) {
	b.Helper()
	_, err := db.ExecContext(b.Context(), `
		UPDATE task SET exit_code = 137, exit_reason = 'OOMKilled'
		WHERE run_id IN (
			SELECT run_id FROM task WHERE definition_id = $1 AND command_hash = $2 AND status = 'STOPPED'
			ORDER BY queued_at DESC LIMIT 40)`, seed.BigDefinitionID, hash)
	require.NoError(b, err)
}

// benchOldLookup measures oldLookup without the index, which it restores.
func benchOldLookup(b *testing.B, db *sqlx.DB, hash string) time.Duration {
	b.Helper()
	var run string
	require.NoError(b, db.GetContext(b.Context(), &run,
		`SELECT run_id FROM task WHERE definition_id = $1 AND command_hash = $2 LIMIT 1`, seed.BigDefinitionID, hash))
	tx, err := db.BeginTxx(b.Context(), nil)
	require.NoError(b, err)
	defer func() { require.NoError(b, tx.Rollback()) }()
	for _, index := range []string{"killed", "runtime", "definition_queued"} {
		_, err = tx.ExecContext(b.Context(), `DROP INDEX flotilla_task_`+index)
		require.NoError(b, err)
	}
	return median(b, func(ctx context.Context) error {
		var memory, cpu *int64
		return tx.QueryRowContext(ctx, oldLookup, seed.BigDefinitionID, run).Scan(&memory, &cpu)
	})
}

// BenchmarkFirstPages reads first pages of history in the ways users do.
func BenchmarkFirstPages(b *testing.B) {
	m, _ := benchHistory(b, statetest.BenchRuns(b))
	since := func(age time.Duration) []string {
		return []string{time.Now().Add(-age).UTC().Format(time.RFC3339)}
	}
	newest := func(filters map[string][]string) state.ListOptions {
		return state.ListOptions{SortBy: "queued_at", Order: state.OrderDescending, Filters: filters}
	}
	pages := map[string]state.ListOptions{
		"default":                   {},
		"newest":                    newest(nil),
		"by status STOPPED":         {Filters: map[string][]string{"status": {"STOPPED"}}},
		"by status RUNNING":         {Filters: map[string][]string{"status": {"RUNNING"}}},
		"by definition":             {Filters: map[string][]string{"definition_id": {seed.BigDefinitionID}}},
		"newest of a definition":    newest(map[string][]string{"definition_id": {seed.BigDefinitionID}}),
		"newest since an hour":      newest(map[string][]string{"queued_at_since": since(time.Hour)}),
		"newest since 10 days":      newest(map[string][]string{"queued_at_since": since(240 * time.Hour)}),
		"by time, an hour":          {Filters: map[string][]string{"queued_at_since": since(time.Hour)}},
		"by time, a day":            {Filters: map[string][]string{"queued_at_since": since(24 * time.Hour)}},
		"by time, 10 days":          {Filters: map[string][]string{"started_at_since": since(240 * time.Hour)}},
		"by definition and status":  {Filters: map[string][]string{"definition_id": {seed.BigDefinitionID}, "status": {"RUNNING"}}},
		"by the parent in env":      {Env: []state.EnvVar{{Name: state.ParentRunEnv, Value: seed.ParentRunID}}},
		"by a frequent env":         {Env: []state.EnvVar{{Name: "FLOTILLA_RUN_OWNER_ID", Value: "user7"}}},
		"definition since 3 days":   newest(map[string][]string{"definition_id": {seed.BigDefinitionID}, "queued_at_since": since(72 * time.Hour)}),
		"by executable, newest":     newest(map[string][]string{"executable_id": {seed.BigDefinitionID}}),
		"by cluster":                {Filters: map[string][]string{"cluster_name": {"cluster-1"}}},
		"by image, a substring":     {Filters: map[string][]string{"image": {"analytics"}}},
		"by exit reason, substring": {Filters: map[string][]string{"exit_reason": {"OOM"}}},
	}
	for _, limit := range []int{20, 100, state.DefaultListLimit} {
		for _, name := range slices.Sorted(maps.Keys(pages)) {
			o := pages[name]
			o.Limit = limit
			b.Run(name+", "+strconv.Itoa(limit)+" rows", func(b *testing.B) {
				median(b, func(ctx context.Context) error {
					_, err := m.ListRuns(ctx, o)
					return err
				})
			})
		}
	}
}
