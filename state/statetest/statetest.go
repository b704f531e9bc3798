// Package statetest gives tests a migrated database of their own and a Manager
// of it. Only tests import it.
package statetest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/state"
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
	return errors.Join(state.Migrate(ctx, url, logger), state.BuildIndexes(ctx, url, logger))
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
