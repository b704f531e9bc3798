package main

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state"
)

// mostToRunning is what a submitted `true` on an idle local cluster may take
// at the median until it is RUNNING.
const mostToRunning = 50 * time.Millisecond

// BenchmarkToRunning measures from the request of a run to its RUNNING row,
// one run at a time, in the real program.
func BenchmarkToRunning(b *testing.B) {
	pg := pgtest.NewServer(b)
	in := newInstallation(b, pg.CreateDatabase("bench"))
	server := in.start("a")
	definition := server.define("true")
	await := func(run string, statuses ...state.Status) {
		deadline := time.Now().Add(recovery)
		looks := time.NewTicker(time.Millisecond)
		defer looks.Stop()
		for ; ; <-looks.C {
			var status state.Status
			require.NoError(b, in.db.QueryRowContext(b.Context(), `SELECT status FROM task WHERE run_id = $1`, run).Scan(&status))
			if slices.Contains(statuses, status) {
				return
			}
			require.True(b, time.Now().Before(deadline), "%s is still %s", run, status)
		}
	}
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		run := server.launch(definition)
		await(run, state.StatusRunning, state.StatusStopped)
		took = append(took, time.Since(began))
		b.StopTimer()
		await(run, state.StatusStopped)
		b.StartTimer()
	}
	slices.Sort(took)
	median := took[len(took)/2]
	b.ReportMetric(float64(median.Microseconds())/1000, "p50-ms")
	if len(took) >= 20 { // fewer say nothing of a median
		require.LessOrEqual(b, median, mostToRunning)
	}
}
