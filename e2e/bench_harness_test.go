package e2e

import (
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
	"github.com/stitchfix/flotilla-os/state/statetest"
)

// newBenchInstallation is an installation of the program as users have it, on a
// database as durable as theirs, with n runs of history.
func newBenchInstallation(b *testing.B, n int, env ...string) (*installation, *pgtest.Server) {
	b.Helper()
	program, err := plainProgram()
	require.NoError(b, err)
	pg := pgtest.NewServer(b)
	url := pg.CreateDatabase("bench")
	require.NoError(b, statetest.SeedHistory(b.Context(), url, n))
	return install(b, program, url, append([]string{"METRICS_CLIENT=prometheus"}, env...)), pg
}

// newBenchClient is an HTTP client of n connections that stay open.
func newBenchClient(tb testing.TB, n int) *http.Client {
	transport := &http.Transport{MaxIdleConns: n, MaxIdleConnsPerHost: n, DisableCompression: true}
	tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: recovery}
}

// fetch sends one request and reads its answer, which must be a 200, to the
// end. It answers how long the answer is.
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

// percentile is the time that p of 100 took at most; it sorts took.
func percentile(took []time.Duration, p int) time.Duration {
	slices.Sort(took)
	return took[min(len(took)*p/100, len(took)-1)]
}

// ms is a time for people.
func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }

// residentMB is the resident memory of a process.
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
