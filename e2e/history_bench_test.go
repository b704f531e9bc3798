package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/stitchfix/flotilla-os/clients/postgres"
	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state/seed"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

// mostFirstPage is the goal for the median time of a first page of history.
const mostFirstPage = 20 * time.Millisecond

// pageLength is the length of the pages that have the goal. The API's default of 1,024 runs is measured too; encoding and
// sending those 2 MB takes most of its time.
const pageLength = 100

// BenchmarkHistory measures the program with a history of statetest.BenchRuns runs: first pages, then submitting, which
// adds to the history.
func BenchmarkHistory(b *testing.B) {
	in, pg := newBenchInstallation(b, statetest.BenchRuns(b))
	b.Run("first page", func(b *testing.B) { benchFirstPages(b, in, pg) })
	b.Run("submit", func(b *testing.B) { benchSubmit(b, in) })
}

// firstPages returns the pages that users request.
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
	server := in.serve("pages", onlyWorkers("retry,status"))
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

// medianOf requests a page in every iteration and returns the median time.
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

const (
	submitClients = 16
	// submitRound is the time for which pgbench and the API are measured in turn. Each iteration is one round of both.
	submitRound = time.Second
	// leastSubmitRatio is the goal for the rate of the API divided by that of pgbench.
	leastSubmitRatio = 1.0 / 3
)

// benchSubmit compares the rate at which clients submit runs over HTTP with the rate at which as many clients of pgbench
// insert the same row into the same table. Nothing is executed meanwhile. The rate while the runs are executed on the
// same machine is reported too.
func benchSubmit(b *testing.B, in *installation) {
	reference := newPgbench(b, in)
	var theirs, ours, busy []float64
	b.Run("workers paused", func(b *testing.B) {
		server, s := startForSubmitting(b, in, "retry,status")
		for b.Loop() {
			theirs = append(theirs, reference.run(b))
			ours = append(ours, s.submit(b, submitRound))
		}
		server.kill()
		ratio := median(ours) / median(theirs)
		b.ReportMetric(median(ours), "runs/s")
		b.ReportMetric(median(theirs), "pgbench-rows/s")
		b.ReportMetric(ratio, "ratio")
		pgtest.Result{
			What:     fmt.Sprintf("submitting with %d clients, by pgbench", submitClients),
			Measured: fmt.Sprintf("%.2f", ratio), Goal: fmt.Sprintf(">= %.2f", leastSubmitRatio), Missed: ratio < leastSubmitRatio,
			Reference: fmt.Sprintf("%.0f runs/s; pgbench: %.0f rows/s", median(ours), median(theirs)),
		}.Report(b)
	})
	b.Run("workers running", func(b *testing.B) {
		server, s := startForSubmitting(b, in, "submit,retry,status")
		for b.Loop() {
			busy = append(busy, s.submit(b, submitRound))
		}
		server.kill()
		b.ReportMetric(median(busy), "runs/s")
		pgtest.Result{
			What:     fmt.Sprintf("submitting with %d clients while runs are executed", submitClients),
			Measured: fmt.Sprintf("%.0f runs/s", median(busy)), Reference: "workers paused: see above",
		}.Report(b)
	})
}

// startForSubmitting starts a server with the given workers and opens the connections of its clients and to its database.
func startForSubmitting(b *testing.B, in *installation, workers string) (*server, *submitters) {
	b.Helper()
	server := in.serve("submit", onlyWorkers(workers))
	s := newSubmitters(b, server)
	s.submit(b, submitRound/2)
	return server, s
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

// submitters are clients that submit runs of one definition.
type submitters struct {
	client *http.Client
	url    string
}

const submitBody = `{"run_tags": {"owner_id": "bench"}, "command": "true"}`

func newSubmitters(b *testing.B, s *server) *submitters {
	b.Helper()
	var all struct {
		Definitions []struct {
			ID string `json:"definition_id"`
		} `json:"definitions"`
	}
	s.mustCall(http.MethodGet, "/task?alias="+benchAlias, nil, &all)
	require.Len(b, all.Definitions, 1)
	return &submitters{newBenchClient(b, submitClients), s.url + "/api/v6/task/" + all.Definitions[0].ID + "/execute"}
}

// submit lets all clients submit for span and returns the runs per second.
func (s *submitters) submit(b *testing.B, span time.Duration) float64 {
	b.Helper()
	var group errgroup.Group
	var done atomic.Int64
	began := time.Now()
	for range submitClients {
		group.Go(func() error {
			for time.Since(began) < span {
				if _, err := fetch(s.client, http.MethodPut, s.url, submitBody); err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	require.NoError(b, group.Wait())
	return float64(done.Load()) / time.Since(began).Seconds()
}

// benchAlias is the alias of the definition whose runs are submitted.
const benchAlias = "bench-submit"

// pgbench inserts rows like that of a submitted run.
type pgbench struct {
	path, script, database string
}

// newPgbench submits one run and writes a script that inserts rows like its row.
func newPgbench(b *testing.B, in *installation) *pgbench {
	b.Helper()
	server := in.serve("row", onlyWorkers("retry,status"))
	server.define("true", object{"alias": benchAlias})
	var run created
	server.mustCall(http.MethodPut, "/task/alias/"+benchAlias+"/execute", json.RawMessage(submitBody), &run)
	server.kill()
	p := &pgbench{findPgbench(b), filepath.Join(in.dir, "insert.sql"), in.dbURL}
	require.NoError(b, os.WriteFile(p.script, []byte(insertLike(b, in, run.ID)), 0o600))
	return p
}

// findPgbench returns the path of the pgbench beside the server's binaries, of which some directories hold links only.
func findPgbench(b *testing.B) string {
	b.Helper()
	binaries, err := postgres.FindBinaries(b.Context(), postgres.Search{})
	require.NoError(b, err)
	for _, found := range binaries {
		initdb, err := filepath.EvalSymlinks(filepath.Join(found.Dir, "initdb"))
		require.NoError(b, err)
		path := filepath.Join(filepath.Dir(initdb), "pgbench")
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	require.FailNow(b, "no pgbench beside the server's binaries", "%v", binaries)
	return ""
}

// insertLike returns a statement that inserts a row like that of the run, with a new id and the current time.
func insertLike(b *testing.B, in *installation, runID string) string {
	b.Helper()
	rows, err := in.db.QueryContext(b.Context(), `SELECT key, value FROM task,
		LATERAL jsonb_each_text(to_jsonb(task)) WHERE run_id = $1 AND value IS NOT NULL`, runID)
	require.NoError(b, err)
	defer func() { require.NoError(b, rows.Close()) }()
	var columns, values []string
	for rows.Next() {
		var column, value string
		require.NoError(b, rows.Scan(&column, &value))
		// pgbench replaces :name in strings too.
		value = "E'" + strings.NewReplacer(`\`, `\\`, `'`, `''`, ":", `\x3a`).Replace(value) + "'"
		switch column {
		case "run_id":
			value = `CAST(gen_random_uuid() AS text)`
		case "queued_at":
			value = `clock_timestamp()`
		}
		columns, values = append(columns, `"`+column+`"`), append(values, value)
	}
	require.NoError(b, rows.Err())
	require.Greater(b, len(columns), 20)
	return "INSERT INTO task (" + strings.Join(columns, ", ") + ") VALUES (" + strings.Join(values, ", ") + ");\n"
}

// run returns the rows per second of one round.
func (p *pgbench) run(b *testing.B) float64 {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.path, "-n", "-c", strconv.Itoa(submitClients), "-j", "2", "-M", "prepared",
		"-T", strconv.Itoa(int(submitRound.Seconds())), "-f", p.script, p.database)
	out, err := cmd.CombinedOutput()
	require.NoError(b, err, "%s", out)
	_, after, found := bytes.Cut(out, []byte("tps = "))
	require.True(b, found, "%s", out)
	rate, err := strconv.ParseFloat(strings.Fields(string(after))[0], 64)
	require.NoError(b, err)
	return rate
}
