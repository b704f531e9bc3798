// Package state holds what Flotilla remembers: the domain types (definitions,
// templates, runs, clusters, workers) and the Manager that keeps them in
// Postgres.
//
// It decides which changes of a run are legal (lifecycle.go) and makes each of
// them one guarded UPDATE. It does not decide what to run, where, or with
// which size: that is services and execution.
package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

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

// prepared keeps the statements of one pool that are run for every run, by
// their text; each connection learns them when it first runs them. Without it
// the server would plan them anew each time, which for a table with as many
// indexes as task's takes longer than to run them. The zero value is ready. The
// statements end with their pool.
type prepared[S interface{ Close() error }] struct {
	mu     sync.Mutex
	byText map[string]S
}

// get gives the statement for text, which it makes where it is not there yet.
func (p *prepared[S]) get(text string, make func() (S, error)) (S, error) {
	p.mu.Lock()
	stmt, known := p.byText[text]
	p.mu.Unlock()
	if known {
		return stmt, nil
	}
	// Outside the lock: it is a round trip, and the database may be away.
	stmt, err := make()
	if err != nil {
		return stmt, err
	}
	return p.keep(text, stmt)
}

// keep remembers the statement, but for one that another caller made meanwhile.
func (p *prepared[S]) keep(text string, stmt S) (S, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if earlier, known := p.byText[text]; known {
		return earlier, stmt.Close()
	}
	if p.byText == nil {
		p.byText = map[string]S{}
	}
	p.byText[text] = stmt
	return stmt, nil
}

// named gives a statement of the primary with :name arguments.
func (m *Manager) named(ctx context.Context, text string) (*sqlx.NamedStmt, error) {
	stmt, err := m.statements.get(text, func() (*sqlx.NamedStmt, error) {
		return m.db.PrepareNamedContext(ctx, text)
	})
	return stmt, interpretError(err)
}

// lookup asks the read-only database for one row.
func (m *Manager) lookup(ctx context.Context, dst any, text string, args ...any) error {
	stmt, err := m.lookups.get(text, func() (*sqlx.Stmt, error) { //nolint:sqlclosecheck // it is kept
		return m.readDB.PreparexContext(ctx, text)
	})
	if err != nil {
		return err
	}
	return stmt.GetContext(ctx, dst, args...)
}

// guard lists the statuses that an UPDATE to the status `to` may leave, for
// its WHERE. Where only is not empty, those of them.
func guard(to Status, only ...Status) pq.StringArray {
	words := pq.StringArray{}
	for _, from := range sourcesOf(to) {
		if len(only) == 0 || slices.Contains(only, from) {
			words = append(words, string(from))
		}
	}
	return words
}

// hitsOne runs a guarded UPDATE and reports whether its guard let it through.
func (m *Manager) hitsOne(ctx context.Context, text string, arg any) (bool, error) {
	n, err := m.update(ctx, text, arg)
	return n == 1, err
}

// update runs text with the named arguments of arg and counts the rows hit.
func (m *Manager) update(ctx context.Context, text string, arg any) (int, error) {
	stmt, err := m.named(ctx, text) //nolint:sqlclosecheck // it is kept
	if err != nil {
		return 0, err
	}
	n, err := rowsHit(stmt.ExecContext(ctx, arg))
	return n, interpretError(err)
}

// moved runs a guarded UPDATE that answers the row. Where the guard did not
// let it through, the row is read as it stands, and moved is false;
// MissingResource where there is none.
func (m *Manager) moved(ctx context.Context, text, runID string, arg any) (r Run, moved bool, err error) {
	stmt, err := m.named(ctx, text) //nolint:sqlclosecheck // it is kept
	if err != nil {
		return Run{}, false, err
	}
	r, err = m.readRun(ctx, func(row any) error { return stmt.GetContext(ctx, row, arg) })
	if !errors.Is(err, sql.ErrNoRows) {
		return r, err == nil, err
	}
	r, err = m.GetRun(ctx, runID)
	return r, false, err
}

// changed runs an UPDATE that answers the rows it hit.
func (m *Manager) changed(ctx context.Context, text string, arg any) ([]Run, error) {
	stmt, err := m.named(ctx, text) //nolint:sqlclosecheck // it is kept
	if err != nil {
		return nil, err
	}
	return m.readRuns(ctx, func(rows any) error { return stmt.SelectContext(ctx, rows, arg) })
}

// exec runs a statement that is not worth keeping prepared and counts the rows
// hit.
func (m *Manager) exec(ctx context.Context, text string, args ...any) (int, error) {
	n, err := rowsHit(m.db.ExecContext(ctx, text, args...))
	return n, interpretError(err)
}

// rowsHit counts the rows that a statement changed.
func rowsHit(result sql.Result, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}
