// Package statetest provides tests with a migrated database of their own and its Manager. Only tests import it.
package statetest

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"log/slog"
	"os"
	"strconv"
	"testing"
	"time"

	_ "github.com/lib/pq" // The driver of SeedHistory's pool.

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/database"
	"github.com/stitchfix/flotilla-os/state/seed"
)

// NewURL returns the URL of a new database with all tables and indexes, and no rows. The TestMain of the test's package
// ends the server, see package pgtest.
func NewURL(t testing.TB) string {
	t.Helper()
	return pgtest.New(t, pgtest.Template("state", Migrate)).URL
}

// Migrate creates all tables and indexes.
func Migrate(ctx context.Context, url string) error {
	logger := slog.New(slog.DiscardHandler)
	return errors.Join(database.Migrate(ctx, url, logger), database.BuildIndexes(ctx, url, logger))
}

// SeedHistory creates all tables and indexes and n runs, see package seed.
func SeedHistory(ctx context.Context, url string, n int) (err error) {
	logger := slog.New(slog.DiscardHandler)
	if err := database.Migrate(ctx, url, logger); err != nil {
		return err
	}
	db, err := sql.Open("postgres", url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := seed.Runs(ctx, db, n, time.Now()); err != nil {
		return err
	}
	if err := database.BuildIndexes(ctx, url, logger); err != nil {
		return err
	}
	return seed.Analyze(ctx, db)
}

// NewManager returns a Manager of a new database, and the database's URL. It logs to the test, and is closed when the
// test ends. changes are applied to the configuration.
func NewManager(t testing.TB, changes ...func(*state.ManagerConfig)) (*state.Manager, string) {
	t.Helper()
	url := NewURL(t)
	return Open(t, url, changes...), url
}

// Open returns a Manager of an existing database, as NewManager does.
func Open(t testing.TB, url string, changes ...func(*state.ManagerConfig)) *state.Manager {
	t.Helper()
	cfg := state.ManagerConfig{
		URL: url, MaxOpen: 10, MaxIdle: 10,
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
		ARA:    ARA(t),
	}
	for _, change := range changes {
		change(&cfg)
	}
	manager, err := state.NewManager(cfg)
	if err != nil {
		t.Fatalf("open a manager: %v", err)
	}
	t.Cleanup(func() {
		if err := manager.Close(); err != nil {
			t.Errorf("close the manager: %v", err)
		}
	})
	return manager
}

// ARA returns the default configuration of ARA.
func ARA(t testing.TB) config.ARA {
	t.Helper()
	loaded, _, err := config.Load("", nil)
	if err != nil {
		t.Fatalf("load the default configuration: %v", err)
	}
	return loaded.ARA
}

// testWriter writes log lines to a test.
type testWriter struct{ t testing.TB }

var _ io.Writer = testWriter{}

func (w testWriter) Write(line []byte) (int, error) {
	w.t.Log(string(line))
	return len(line), nil
}

// benchRunsVariable is the environment variable for the length of the history of benchmarks. The default is built
// quickly; `make bench` uses a million.
const (
	benchRunsVariable = "FLOTILLA_BENCH_RUNS"
	defaultBenchRuns  = 20_000
)

// BenchRuns returns how many runs a benchmark's history has, see SeedHistory.
func BenchRuns(b *testing.B) int {
	b.Helper()
	text := os.Getenv(benchRunsVariable)
	if text == "" {
		return defaultBenchRuns
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		b.Fatalf("%s: %v", benchRunsVariable, err)
	}
	return n
}
