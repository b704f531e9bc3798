package pgtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// referenceSpan is how long each kind of work is repeated to measure it.
const referenceSpan = 300 * time.Millisecond

// Reference is the time that PostgreSQL itself needs, here and now, for the least work there is. Benchmarks report their
// timings as multiples of it, which are comparable between machines. A time is wall time divided by operations, so with
// several connections it is shorter than one operation takes.
type Reference struct {
	// Read is one row read by its primary key.
	Read time.Duration
	// Commit is one row inserted and committed.
	Commit time.Duration
}

// MeasureReference measures with as many connections at once as the benchmark uses. Commits are as durable as the
// server of url: those of New's databases are not, those of NewServer's are.
func MeasureReference(tb testing.TB, url string, connections int) Reference {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	db := open(tb, url)
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	ref, err := measure(ctx, db, connections)
	if err != nil {
		tb.Fatalf("pgtest: measuring the reference: %v", err)
	}
	return ref
}

func measure(ctx context.Context, db *sql.DB, connections int) (ref Reference, err error) {
	const create = `CREATE TABLE pgtest_reference (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text NOT NULL)`
	if _, err := db.ExecContext(ctx, create); err != nil {
		return Reference{}, err
	}
	defer func() {
		_, dropErr := db.ExecContext(ctx, `DROP TABLE pgtest_reference`)
		err = errors.Join(err, dropErr)
	}()
	insert, err := db.PrepareContext(ctx, `INSERT INTO pgtest_reference (body) VALUES ($1)`)
	if err != nil {
		return Reference{}, err
	}
	defer insert.Close()
	read, err := db.PrepareContext(ctx, `SELECT body FROM pgtest_reference WHERE id = $1`)
	if err != nil {
		return Reference{}, err
	}
	defer read.Close()
	ref.Commit, err = repeat(connections, func() error {
		_, err := insert.ExecContext(ctx, "a row of about the length of a short command line")
		return err
	})
	if err != nil {
		return Reference{}, err
	}
	ref.Read, err = repeat(connections, func() error {
		var body string
		return read.QueryRowContext(ctx, 1).Scan(&body)
	})
	return ref, err
}

// repeat repeats work on all connections and returns the wall time per piece. The first piece of each connection does not
// count: it connects and plans.
func repeat(connections int, work func() error) (time.Duration, error) {
	var warm, all errgroup.Group
	for range connections {
		warm.Go(work)
	}
	if err := warm.Wait(); err != nil {
		return 0, err
	}
	var done atomic.Int64
	began := time.Now()
	for range connections {
		all.Go(func() error {
			for time.Since(began) < referenceSpan {
				if err := work(); err != nil {
					return err
				}
				done.Add(1)
			}
			return nil
		})
	}
	err := all.Wait()
	return time.Since(began) / time.Duration(max(done.Load(), 1)), err
}

// Report adds to the benchmark's result how many reads and how many commits of the reference one operation is worth.
func (r Reference) Report(b *testing.B) {
	b.Helper()
	perOp := float64(b.Elapsed()) / float64(b.N)
	b.ReportMetric(perOp/float64(r.Read), "reads/op")
	b.ReportMetric(perOp/float64(r.Commit), "commits/op")
}

// resultsVariable is the environment variable that names a file to append results to. `make bench` prints it.
const resultsVariable = "FLOTILLA_BENCH_RESULTS"

// Result is one line of the table of results: what was measured, its goal, and what the same machine needed at the same
// time for something to compare it with.
type Result struct {
	What, Measured, Goal, Reference string
	// Missed reports whether the goal was not reached.
	Missed bool
}

// Report logs the result, or appends it to the table of results if there is one. It does not fail the benchmark: timings
// depend on what else the machine does.
func (r Result) Report(b *testing.B) {
	b.Helper()
	verdict := "reached"
	switch {
	case r.Goal == "":
		verdict = ""
	case r.Missed:
		verdict = "MISSED"
	}
	path := os.Getenv(resultsVariable)
	if path == "" {
		b.Logf("%s: %s (goal %s %s; reference: %s)", r.What, r.Measured, r.Goal, verdict, r.Reference)
		return
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // A table for all users to read.
	if err == nil {
		_, err = fmt.Fprintln(file, strings.Join([]string{r.What, r.Measured, r.Goal, verdict, r.Reference}, "\t"))
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		b.Fatalf("pgtest: %s: %v", resultsVariable, err)
	}
}
