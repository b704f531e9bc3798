package e2e

import (
	"fmt"
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
// one run at a time, in the real program. The reference is one commit: on the
// way there are four of them, one after the other.
func BenchmarkToRunning(b *testing.B) {
	in, _ := newBenchInstallation(b, 0)
	ref := pgtest.MeasureReference(b, in.dbURL, 1)
	server := in.start("latency")
	definition := server.define("true")
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		run := server.launch(definition)
		in.awaitStatus(b, run, state.StatusRunning, state.StatusStopped)
		took = append(took, time.Since(began))
		b.StopTimer()
		in.awaitStatus(b, run, state.StatusStopped)
		b.StartTimer()
	}
	p50, p99 := percentile(took, 50), percentile(took, 99)
	b.ReportMetric(float64(p50.Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(p99.Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(p50)/float64(ref.Commit), "commits/op")
	pgtest.Result{
		What: "from submitting `true` to RUNNING, idle local cluster", Measured: ms(p50),
		Goal: "<= " + ms(mostToRunning), Missed: p50 > mostToRunning,
		Reference: fmt.Sprintf("one commit: %s; 99 of 100 within %s", ms(ref.Commit), ms(p99)),
	}.Report(b)
}

// awaitStatus looks every millisecond until a run has one of the statuses.
func (in *installation) awaitStatus(b *testing.B, run string, statuses ...state.Status) {
	b.Helper()
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
