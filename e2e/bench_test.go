package e2e

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

// newBenchInstallation returns an installation of the program without fault points, on a database as durable as users',
// with n runs of history.
func newBenchInstallation(b *testing.B, n int, env ...string) (*installation, *pgtest.Server) {
	b.Helper()
	program, err := plainProgram()
	require.NoError(b, err)
	pg := pgtest.NewServer(b)
	url := pg.CreateDatabase("bench")
	require.NoError(b, statetest.SeedHistory(b.Context(), url, n))
	return install(b, program, url, append([]string{"METRICS_CLIENT=prometheus"}, env...)), pg
}

// newBenchClient returns an HTTP client that keeps n connections open.
func newBenchClient(tb testing.TB, n int) *http.Client {
	transport := &http.Transport{MaxIdleConns: n, MaxIdleConnsPerHost: n, DisableCompression: true}
	tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// fetch sends one request, reads the whole body of its 200, and returns the body's length.
func fetch(client *http.Client, method, url, body string) (length int64, err error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return 0, fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, text)
	}
	return io.Copy(io.Discard, resp.Body)
}

// percentile returns the p-th percentile of took, which it sorts.
func percentile(took []time.Duration, p int) time.Duration {
	slices.Sort(took)
	return took[min(len(took)*p/100, len(took)-1)]
}

// ms formats a duration in milliseconds.
func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }

// residentMB returns the resident memory of a process in MB.
func residentMB(tb testing.TB, pid int) float64 {
	tb.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(tb, err)
	_, rest, found := strings.Cut(string(status), "VmRSS:")
	require.True(tb, found)
	kB, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	require.NoError(tb, err)
	return kB / 1024
}

// mostToRunning is the goal for the median time from submitting `true` on an idle local cluster to RUNNING.
const mostToRunning = 50 * time.Millisecond

// BenchmarkToRunning measures the time from the request of a run to its RUNNING row, one run at a time. The reference is
// one commit; a run needs four commits, one after the other.
func BenchmarkToRunning(b *testing.B) {
	in, _ := newBenchInstallation(b, 0)
	ref := pgtest.MeasureReference(b, in.dbURL, 1)
	server := in.serve("latency")
	definition := server.define("true")
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		run := server.run(definition)
		in.awaitRowStatus(b, run, state.StatusRunning, state.StatusStopped)
		took = append(took, time.Since(began))
		b.StopTimer()
		in.awaitRowStatus(b, run, state.StatusStopped)
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

// awaitRowStatus reads the run's row every millisecond until the run has one of the statuses.
func (in *installation) awaitRowStatus(b *testing.B, run string, statuses ...state.Status) {
	b.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		var status state.Status
		require.NoError(b, in.db.QueryRowContext(b.Context(), `SELECT status FROM task WHERE run_id = $1`, run).Scan(&status))
		if slices.Contains(statuses, status) {
			return
		}
		require.True(b, time.Now().Before(deadline), "%s is still %s", run, status)
	}
}

// benchRunsExecuted is the number of runs that BenchmarkMemory executes between its two measurements. `make bench` sets
// more.
var benchRunsExecuted = flag.Int("bench.executed", 200, "runs that BenchmarkMemory executes")

const (
	// mostIdleMB and mostGrowthMB are the goals for the memory of the idle server and for its growth over the runs.
	mostIdleMB   = 60.0
	mostGrowthMB = 5.0
	// memoryWarmUp is the number of runs that fill caches and pools before the first measurement.
	memoryWarmUp = 100
	// memoryWave is the number of runs that wait or run at the same time.
	memoryWave = 50
)

// BenchmarkMemory measures the resident memory of the idle server: after its start, and before and after many real runs.
// It does so once, whatever -benchtime is.
func BenchmarkMemory(b *testing.B) {
	in, _ := newBenchInstallation(b, 0)
	server := in.serve("memory")
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
		}, patience, 10*time.Millisecond)
	}
}

// idleMB returns the resident memory in MB once it has not fallen for idleSeconds. The collector returns memory to the
// system some time after its last use.
func idleMB(b *testing.B, pid int) float64 {
	b.Helper()
	least := residentMB(b, pid)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for unchanged := 0; unchanged < idleSeconds; unchanged++ {
		<-tick.C
		if now := residentMB(b, pid); now < least-0.1 {
			least, unchanged = now, 0
		}
	}
	return least
}

const idleSeconds = 5
