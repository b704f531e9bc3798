package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state/seed"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

// mostFirstPage is what a first page of history may take at the median.
const mostFirstPage = 20 * time.Millisecond

// pageLength is the length of the pages that have the goal: what a person
// looks at. The API's default of 1,024 runs is measured beside it; encoding
// and moving those 2 MB is most of its time.
const pageLength = 100

// BenchmarkHistory measures the program with a long history, see
// statetest.BenchRuns: first pages, then submitting, which adds to it.
func BenchmarkHistory(b *testing.B) {
	in, pg := newBenchInstallation(b, statetest.BenchRuns(b))
	b.Run("first page", func(b *testing.B) { benchFirstPages(b, in, pg) })
	b.Run("submit", func(b *testing.B) { benchSubmit(b, in) })
}

// firstPages are the pages as users ask for them.
func firstPages() []struct{ name, path string } {
	since := func(age time.Duration) string {
		return url.QueryEscape(time.Now().Add(-age).UTC().Format(time.RFC3339))
	}
	newest := "sort_by=queued_at&order=desc&"
	return []struct{ name, path string }{
		{"default", "/history?"},
		{"newest", "/history?" + newest},
		{"by status STOPPED", "/history?status=STOPPED"},
		{"by status RUNNING", "/history?status=RUNNING"},
		{"newest by status STOPPED", "/history?status=STOPPED&" + newest},
		{"by definition", "/task/" + seed.BigDefinitionID + "/history?"},
		{"newest by definition", "/task/" + seed.BigDefinitionID + "/history?" + newest},
		{"by time, a day", "/history?queued_at_since=" + since(24*time.Hour)},
		{"by time, 10 days", "/history?started_at_since=" + since(240*time.Hour)},
		{"newest by time, a day", "/history?queued_at_since=" + since(24*time.Hour) + "&" + newest},
	}
}

func benchFirstPages(b *testing.B, in *installation, pg *pgtest.Server) {
	server := in.start("pages", "WORKER_TYPES=retry,status")
	client := newBenchClient(b, 1)
	ref := pgtest.MeasureReference(b, pg.URL("bench"), 1)
	for _, page := range firstPages() {
		for _, limit := range []int{pageLength, 0} {
			address, length := server.url+"/api/v6"+page.path, "default length"
			if limit > 0 {
				address, length = address+"&limit="+strconv.Itoa(limit), strconv.Itoa(limit)+" runs"
			}
			b.Run(page.name+", "+length, func(b *testing.B) {
				median := medianOf(b, client, address)
				r := pgtest.Result{
					What: "first page of history: " + page.name + ", " + length, Measured: ms(median),
					Reference: fmt.Sprintf("one row by its key: %s", ms(ref.Read)),
				}
				if limit > 0 {
					r.Goal, r.Missed = "< "+ms(mostFirstPage), median >= mostFirstPage
				}
				r.Report(b)
			})
		}
	}
	server.kill()
}

// medianOf reads a page again and again.
func medianOf(b *testing.B, client *http.Client, address string) time.Duration {
	b.Helper()
	_, err := fetch(client, http.MethodGet, address, "") // connects
	require.NoError(b, err)
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		_, err := fetch(client, http.MethodGet, address, "")
		took = append(took, time.Since(began))
		require.NoError(b, err)
	}
	median := percentile(took, 50)
	b.ReportMetric(float64(median.Microseconds())/1000, "p50-ms")
	return median
}
