// Package pgtest gives tests real PostgreSQL databases.
//
// New returns a database of the test's own: a clone of a template that is migrated once per test process, on one private
// server per test process, tuned for speed and not for safety. NewServer returns a durable server of the test's own,
// which it may kill and start again. Only tests import this package.
//
// A package that uses New ends its server in TestMain, alone or together with a check for leaked goroutines:
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Wrap(m)) }
//
// However the test process ends, its servers end and their folders are removed.
package pgtest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	_ "github.com/lib/pq" // the driver of Open
)

// patience bounds every step of this package, on a machine that is busy with other things: a test fails rather than
// hangs.
const patience = 4 * time.Minute

// DB is one test's database, dropped when the test ends.
type DB struct {
	Name string
	// URL is the connection URL, with the rights of a superuser.
	URL string
}

// Option configures New.
type Option func(*options)

type options struct {
	template string
	migrate  func(ctx context.Context, url string) error
}

// Template makes the database a clone of one that migrate has prepared. migrate runs once per test process and name, and
// must close its connections before it returns.
func Template(name string, migrate func(ctx context.Context, url string) error) Option {
	return func(o *options) { o.template, o.migrate = name, migrate }
}

// New returns a database of the test's own, empty or a clone of a Template. The environment variable
// FLOTILLA_TEST_DATABASE_URL may name a server to use (as a superuser) instead of a private one.
func New(t testing.TB, opts ...Option) *DB {
	t.Helper()
	var chosen options
	for _, opt := range opts {
		opt(&chosen)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	shared.once.Do(func() { shared.err = shared.start(ctx) })
	if shared.err != nil {
		t.Fatalf("pgtest: no server: %v", shared.err)
	}
	template, err := shared.template(ctx, chosen)
	if err != nil {
		t.Fatalf("pgtest: template %q: %v", chosen.template, err)
	}
	name := uniqueName("test")
	if err := shared.create(ctx, name, template); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := shared.drop(ctx, name); err != nil {
			t.Errorf("pgtest: %v", err)
		}
	})
	return &DB{Name: name, URL: shared.url(name)}
}

// Open returns a connection pool of the database, closed when the test ends.
func (db *DB) Open(t testing.TB) *sql.DB {
	t.Helper()
	return open(t, db.URL)
}

func open(t testing.TB, url string) *sql.DB {
	t.Helper()
	pool, err := sql.Open("postgres", url)
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	t.Cleanup(func() { _ = pool.Close() }) // an error is of no use at the end of a test
	return pool
}

// uniqueName returns a name that no other test process on the same server uses.
func uniqueName(kind string) string {
	return fmt.Sprintf("flotilla_%s_%d_%s", kind, os.Getpid(), strings.ToLower(rand.Text()[:10]))
}

// Main runs the tests, ends the server and exits.
func Main(m *testing.M) { os.Exit(Wrap(m).Run()) }

// Tests is what goleak.VerifyTestMain runs.
type Tests struct{ m *testing.M }

// Wrap ends the server with the tests.
func Wrap(m *testing.M) Tests { return Tests{m} }

// Run runs the tests, ends the server and returns the exit code, which is not 0 if the server would not end.
func (w Tests) Run() int {
	code := w.m.Run()
	if err := shared.close(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest: ending the server:", err)
		return max(code, 1)
	}
	return code
}
