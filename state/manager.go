// Package state holds what Flotilla remembers: the domain types (definitions, templates, runs, clusters, workers) and
// the Manager that keeps them in Postgres.
//
// It decides which changes of a run are legal (lifecycle.go) and makes each of them one guarded UPDATE. It does not
// decide what to run, where, or with which size: that is services and execution.
package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state/database"
)

// ManagerConfig configures a Manager.
type ManagerConfig struct {
	// URL is a session connection to the primary: a URL or a string of key=value pairs.
	URL string
	// ReadonlyURL serves the history lookups of ARA and of the lifecycle choice; empty means URL.
	ReadonlyURL string
	// MaxOpen and MaxIdle bound each pool of connections; 0 means 30.
	MaxOpen, MaxIdle int
	// Logger is required.
	Logger *slog.Logger
	// Metrics measures; nil measures nothing.
	Metrics metrics.Client
	// Clock returns the time that rows get; nil means time.Now.
	Clock func() time.Time
	// ARA holds the window and the multipliers of the history lookups.
	ARA config.ARA
}

// Manager keeps definitions, templates, runs, clusters and workers in Postgres. It is safe for use by many goroutines.
//
// Its methods return MalformedInput, MissingResource, ConflictingResource or Unavailable if one of these applies; any
// other error is a fault of ours.
type Manager struct {
	db *sqlx.DB
	// readDB is the read-only database, or db if none is configured.
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
	// sessionChecked is set once Check has seen that database sessions are ours alone; that does not change while the
	// program runs.
	sessionChecked atomic.Bool
	// oddLogged are the places of odd JSON that were logged.
	oddMu     sync.Mutex
	oddLogged map[string]bool
}

// NewManager returns a Manager with open pools. It does not connect: see Check.
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

// Check returns an error unless the database can be used now: it responds, is the primary, keeps sessions, and has all
// migrations of tables. Indexes may be missing. The first success takes a few round trips, later ones take one.
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

// transact runs fn in one transaction of the primary, and commits it if fn returns nil. It is the only place where
// transactions begin and end. Errors are those of interpretError.
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

// prepared keeps the statements of one pool that are run for every run, by their text; each connection learns them when
// it first runs them. Otherwise the server would plan them anew each time, which takes longer than to run them for a
// table with as many indexes as task. The zero value is ready. The statements end with their pool.
type prepared[S interface{ Close() error }] struct {
	mu     sync.Mutex
	byText map[string]S
}

// get returns the statement for text, and prepares it if it is not kept yet.
func (p *prepared[S]) get(text string, prepare func() (S, error)) (S, error) {
	p.mu.Lock()
	stmt, known := p.byText[text]
	p.mu.Unlock()
	if known {
		return stmt, nil
	}
	// Outside the lock: it is a round trip, and the database may be away.
	stmt, err := prepare()
	if err != nil {
		return stmt, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if earlier, known := p.byText[text]; known {
		return earlier, stmt.Close() // Another caller prepared it meanwhile.
	}
	if p.byText == nil {
		p.byText = map[string]S{}
	}
	p.byText[text] = stmt
	return stmt, nil
}

// named returns a prepared statement of the primary with :name arguments.
func (m *Manager) named(ctx context.Context, text string) (*sqlx.NamedStmt, error) {
	stmt, err := m.statements.get(text, func() (*sqlx.NamedStmt, error) {
		return m.db.PrepareNamedContext(ctx, text)
	})
	return stmt, interpretError(err)
}

// lookup reads one row of the read-only database into dst.
func (m *Manager) lookup(ctx context.Context, dst any, text string, args ...any) error {
	stmt, err := m.lookups.get(text, func() (*sqlx.Stmt, error) { //nolint:sqlclosecheck // it is kept
		return m.readDB.PreparexContext(ctx, text)
	})
	if err != nil {
		return err
	}
	return stmt.GetContext(ctx, dst, args...)
}

// update runs a prepared statement with the named arguments of arg and returns how many rows it changed.
func (m *Manager) update(ctx context.Context, text string, arg any) (int, error) {
	stmt, err := m.named(ctx, text) //nolint:sqlclosecheck // it is kept
	if err != nil {
		return 0, err
	}
	n, err := rowsHit(stmt.ExecContext(ctx, arg))
	return n, interpretError(err)
}

// exec runs a statement that is not worth keeping prepared and returns how many rows it changed.
func (m *Manager) exec(ctx context.Context, text string, args ...any) (int, error) {
	n, err := rowsHit(m.db.ExecContext(ctx, text, args...))
	return n, interpretError(err)
}

// rowsHit returns how many rows a statement changed.
func rowsHit(result sql.Result, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}

// assignments returns the assignments ", column = value" of those of sets whose column is in set. An element of sets is
// "column = value", or a column whose value is the argument of that name.
func assignments(sets []string, set Columns) string {
	var chosen strings.Builder
	for _, text := range sets {
		if column, value := assignment(text); slices.Contains(set, column) {
			chosen.WriteString(", " + column + " = " + value)
		}
	}
	return chosen.String()
}

// insertSQL returns the INSERT of one row that makes all assignments of sets and more, see assignments.
func insertSQL(table string, sets []string, more ...string) string {
	all := slices.Concat(sets, more)
	columns, values := make([]string, len(all)), make([]string, len(all))
	for i, text := range all {
		columns[i], values[i] = assignment(text)
	}
	return `INSERT INTO ` + table + ` (` + strings.Join(columns, ", ") + `) VALUES (` + strings.Join(values, ", ") + `)`
}

// assignment returns the column and the value of an element of sets.
func assignment(text string) (column, value string) {
	column, value, explicit := strings.Cut(text, " = ")
	if !explicit {
		value = ":" + column
	}
	return column, value
}

// deref returns what p points to, or the zero value if p is nil.
func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
