// Package statetest gives tests a migrated database of their own and a Manager
// of it. Only tests import it.
package statetest

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	_ "github.com/lib/pq" // The driver of SeedHistory's pool.

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/database"
	"github.com/stitchfix/flotilla-os/state/seed"
)

// NewURL gives the test a database with all tables and indexes, and no rows.
// The package's TestMain ends the server, see package pgtest.
func NewURL(t testing.TB) string {
	t.Helper()
	return pgtest.New(t, pgtest.Template("state", Migrate)).URL
}

// Migrate makes all tables and indexes.
func Migrate(ctx context.Context, url string) error {
	logger := slog.New(slog.DiscardHandler)
	return errors.Join(database.Migrate(ctx, url, logger), database.BuildIndexes(ctx, url, logger))
}

// SeedHistory makes all tables and indexes and n runs, see package seed.
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

// NewManager gives the test a Manager of a database of its own, and its URL.
// It logs to the test, and is closed when the test ends. Changes go over the
// configuration before it is used.
func NewManager(t testing.TB, changes ...func(*state.ManagerConfig)) (*state.Manager, string) {
	t.Helper()
	url := NewURL(t)
	return Open(t, url, changes...), url
}

// Open gives the test a Manager of an existing database.
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

// ARA is the default configuration of ARA.
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
