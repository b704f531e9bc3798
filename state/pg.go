package state

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state/database"
)

// ManagerConfig says which database a Manager keeps its rows in.
type ManagerConfig struct {
	// URL is a session connection to the primary: a URL or a string of
	// key=value pairs.
	URL string
	// ReadonlyURL serves the history lookups of ARA and of the lifecycle
	// choice; empty means URL.
	ReadonlyURL string
	// MaxOpen and MaxIdle bound each pool of connections; 0 means 30.
	MaxOpen, MaxIdle int
	// Logger is required.
	Logger *slog.Logger
	// Metrics measures; nil measures nothing.
	Metrics metrics.Client
	// Clock is the time that rows get; nil means time.Now.
	Clock func() time.Time
	// ARA holds the window and the multipliers of the history lookups.
	ARA config.ARA
}

// Manager keeps definitions, templates, runs, clusters and workers in
// Postgres. It is safe for use by many goroutines.
//
// Its methods return MalformedInput, MissingResource, ConflictingResource or
// Unavailable where these apply; any other error is a fault of ours.
type Manager struct {
	db *sqlx.DB
	// readDB is the read-only database, or db where none is configured.
	readDB *sqlx.DB
	// countDB counts for lists; its statements end after countTimeout.
	countDB *sqlx.DB
	counts  counts
	logger  *slog.Logger
	metrics metrics.Client
	clock   func() time.Time
	ara     config.ARA
	// statements are the prepared ones of db, lookups those of readDB.
	statements prepared[*sqlx.NamedStmt]
	lookups    prepared[*sqlx.Stmt]
	// sessionChecked is set once Check has seen that database sessions are
	// ours alone; that does not change while the program runs.
	sessionChecked atomic.Bool
	// oddLogged are the places of odd JSON that were logged.
	oddMu     sync.Mutex
	oddLogged map[string]bool
}

// NewManager opens the pools. It does not connect: see Check.
func NewManager(cfg ManagerConfig) (*Manager, error) {
	if cfg.Logger == nil {
		return nil, errors.New("state: a Manager needs a logger")
	}
	m := &Manager{oddLogged: map[string]bool{}, logger: cfg.Logger, metrics: cfg.Metrics, clock: cfg.Clock, ara: cfg.ARA}
	if m.metrics == nil {
		m.metrics = metrics.Nop{}
	}
	if m.clock == nil {
		m.clock = time.Now
	}
	pool := database.PoolConfig{MaxOpen: cfg.MaxOpen, MaxIdle: cfg.MaxIdle}
	var err error
	if m.db, err = database.Open(cfg.URL, pool); err != nil {
		return nil, fmt.Errorf("database_url: %w", err)
	}
	m.countDB, err = database.Open(cfg.URL, database.PoolConfig{MaxOpen: countConnections, MaxIdle: 1, StatementTimeout: countTimeout})
	if err != nil {
		return nil, errors.Join(err, m.db.Close())
	}
	m.readDB = m.db
	if cfg.ReadonlyURL != "" && cfg.ReadonlyURL != cfg.URL {
		if m.readDB, err = database.Open(cfg.ReadonlyURL, pool); err != nil {
			return nil, errors.Join(fmt.Errorf("readonly_database_url: %w", err), m.countDB.Close(), m.db.Close())
		}
	}
	return m, nil
}

// Close closes the pools and waits for the queries under way.
func (m *Manager) Close() error {
	if m.readDB != m.db {
		return errors.Join(m.readDB.Close(), m.countDB.Close(), m.db.Close())
	}
	return errors.Join(m.countDB.Close(), m.db.Close())
}

// Check reports whether the database can be used now: it answers, it is the
// primary, sessions are sessions, and all migrations of tables are done.
// Indexes may be missing. The first success takes a few round trips, later ones
// take one.
func (m *Manager) Check(ctx context.Context) error {
	if err := database.CheckPrimary(ctx, m.db); err != nil {
		return interpretError(err)
	}
	if m.sessionChecked.Load() {
		return nil
	}
	if err := database.CheckSessions(ctx, m.db); err != nil {
		return interpretError(err)
	}
	m.sessionChecked.Store(true)
	return nil
}

// transact runs fn in one transaction of the primary and commits it where fn
// returns nil. It is the only place where transactions begin and end. Errors
// are those of interpretError.
func (m *Manager) transact(ctx context.Context, fn func(tx *sqlx.Tx) error) (err error) {
	tx, err := m.db.BeginTxx(ctx, nil)
	if err != nil {
		return interpretError(err)
	}
	// After a commit this does nothing; it also covers a panic in fn.
	defer func() { _ = tx.Rollback() }()
	if err := fn(tx); err != nil {
		return interpretError(err)
	}
	return interpretError(tx.Commit())
}
