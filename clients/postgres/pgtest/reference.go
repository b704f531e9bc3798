package pgtest

import (
	"context"
	"database/sql"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// referenceSpan is how long each kind of work is repeated to measure it.
const referenceSpan = 300 * time.Millisecond

// Reference is what PostgreSQL itself needs, here and now, for the least work there is. A benchmark gives its timings
// as multiples of it, which say the same on a slow machine and on a fast one. Times are wall time by operations done,
// so at several connections they are shorter than one operation takes.
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
	db, err := sql.Open("postgres", url)
	if err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	defer db.Close()
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
		if _, dropErr := db.ExecContext(ctx, `DROP TABLE pgtest_reference`); err == nil {
			err = dropErr
		}
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

// repeat does one kind of work over and over on all connections and returns the wall time per piece. The first piece of
// each is not counted: it connects and plans.
func repeat(connections int, work func() error) (time.Duration, error) {
	var warm errgroup.Group
	for range connections {
		warm.Go(work)
	}
	if err := warm.Wait(); err != nil {
		return 0, err
	}
	var done atomic.Int64
	var all errgroup.Group
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
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	return took / time.Duration(max(done.Load(), 1)), nil
}

// Report adds to the benchmark's result how many reads and how many commits of the reference one operation was worth.
func (r Reference) Report(b *testing.B) {
	b.Helper()
	perOp := float64(b.Elapsed()) / float64(b.N)
	b.ReportMetric(perOp/float64(r.Read), "reads/op")
	b.ReportMetric(perOp/float64(r.Commit), "commits/op")
}
