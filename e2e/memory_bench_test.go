package e2e

import (
	"flag"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state"
)

// benchRunsExecuted is how many runs BenchmarkMemory has executed between its
// two looks; `make bench` asks for more.
var benchRunsExecuted = flag.Int("bench.executed", 200, "runs that BenchmarkMemory executes")

const (
	// mostIdleMB and mostGrowthMB are what the idle server may hold, and how
	// much more after its runs.
	mostIdleMB   = 60.0
	mostGrowthMB = 5.0
	// memoryWarmUp runs fill caches, pools and the heap to its usual size.
	memoryWarmUp = 100
	// memoryWave is how many runs wait or run at the same time.
	memoryWave = 50
)

// BenchmarkMemory looks at the resident memory of the server while it is idle:
// after its start, and before and after many real runs. One iteration is all
// of that, whatever -benchtime says.
func BenchmarkMemory(b *testing.B) {
	in, _ := newBenchInstallation(b, 0)
	server := in.start("memory")
	pid := server.cmd.Process.Pid
	client := newBenchClient(b, submitClients)
	definition := server.define("true")
	for done := false; b.Loop(); done = true {
		if done {
			continue
		}
		fresh := idleMB(b, pid)
		executeRuns(b, in, client, server.url+"/api/v6/task/"+definition+"/execute", memoryWarmUp)
		before := idleMB(b, pid)
		began := time.Now()
		executeRuns(b, in, client, server.url+"/api/v6/task/"+definition+"/execute", *benchRunsExecuted)
		rate := float64(*benchRunsExecuted) / time.Since(began).Seconds()
		after := idleMB(b, pid)
		b.ReportMetric(fresh, "idle-MB")
		b.ReportMetric(after-before, "growth-MB")
		b.ReportMetric(rate, "executed/s")
		pgtest.Result{
			What: "memory of the idle server", Measured: fmt.Sprintf("%.0f MB", after),
			Goal: fmt.Sprintf("< %.0f MB", mostIdleMB), Missed: after >= mostIdleMB,
			Reference: fmt.Sprintf("just started: %.0f MB", fresh),
		}.Report(b)
		pgtest.Result{
			What: fmt.Sprintf("growth of it over %d runs", *benchRunsExecuted), Measured: fmt.Sprintf("%.1f MB", after-before),
			Goal: fmt.Sprintf("< %.0f MB", mostGrowthMB), Missed: after-before >= mostGrowthMB,
			Reference: fmt.Sprintf("%.0f runs/s executed", rate),
		}.Report(b)
	}
}

// executeRuns submits n runs in waves and waits until each wave is STOPPED.
func executeRuns(b *testing.B, in *installation, client *http.Client, url string, n int) {
	b.Helper()
	for n > 0 {
		wave := min(n, memoryWave)
		n -= wave
		for range wave {
			_, err := fetch(client, http.MethodPut, url, submitBody)
			require.NoError(b, err)
		}
		require.Eventually(b, func() bool {
			var left int
			err := in.db.QueryRowContext(b.Context(), `SELECT count(*) FROM task WHERE status <> $1`, state.StatusStopped).Scan(&left)
			return err == nil && left == 0
		}, recovery, 10*time.Millisecond)
	}
}

// idleMB is the resident memory once it has stopped falling: the collector
// gives memory back some time after it was used.
func idleMB(b *testing.B, pid int) float64 {
	b.Helper()
	least := residentMB(b, pid)
	looks := time.NewTicker(time.Second)
	defer looks.Stop()
	for unchanged := 0; unchanged < idleLooks; unchanged++ {
		<-looks.C
		if now := residentMB(b, pid); now < least-0.1 {
			least, unchanged = now, 0
		}
	}
	return least
}

// idleLooks is for how many seconds memory must not have fallen.
const idleLooks = 5
