package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
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
)

const (
	submitClients = 16
	// submitRound is how long pgbench and the API are measured in turn; each
	// iteration of the benchmark is one round of both.
	submitRound = time.Second
	// leastSubmitRatio is the rate of the API by that of pgbench.
	leastSubmitRatio = 1.0 / 3
)

// benchSubmit compares the rate at which clients submit runs through HTTP with
// that at which as many clients of pgbench insert the same row into the same
// table. Nothing is executed meanwhile; what submitting comes to while the runs
// are executed on the same machine is told beside it.
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

// startForSubmitting starts a server with the workers, and has clients connect
// to it and it to the database.
func startForSubmitting(b *testing.B, in *installation, workers string) (*server, *submitters) {
	b.Helper()
	server := in.start("submit", "WORKER_TYPES="+workers)
	s := newSubmitters(b, server)
	s.submit(b, submitRound/2)
	return server, s
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

// submitters submit runs of one definition.
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

// submit has all clients submit for as long, and answers the runs per second.
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

// benchAlias is the definition whose runs are submitted.
const benchAlias = "bench-submit"

// pgbench inserts rows like that of a run that was submitted.
type pgbench struct {
	path, script, database string
}

// newPgbench submits one run and makes a script of its row.
func newPgbench(b *testing.B, in *installation) *pgbench {
	b.Helper()
	server := in.start("row", "WORKER_TYPES=retry,status")
	server.mustCall(http.MethodPost, "/task", object{
		"alias": benchAlias, "image": "none", "group_name": "bench", "command": "true",
	}, nil)
	var run struct {
		ID string `json:"run_id"`
	}
	server.mustCall(http.MethodPut, "/task/alias/"+benchAlias+"/execute", json.RawMessage(submitBody), &run)
	server.kill()
	p := &pgbench{findPgbench(b), filepath.Join(in.dir, "insert.sql"), in.dbURL}
	require.NoError(b, os.WriteFile(p.script, []byte(insertLike(b, in, run.ID)), 0o600))
	return p
}

// findPgbench looks beside the server's binaries, also where those are reached
// by a link.
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
	require.FailNow(b, "there is no pgbench beside the server's binaries", "%v", binaries)
	return ""
}

// insertLike is a statement that inserts a row like that of a run, with an id
// and a time of its own.
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
		// pgbench takes :name for a variable in strings, too.
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

// run answers the rows per second of one round.
func (p *pgbench) run(b *testing.B) float64 {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), recovery)
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
