package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"github.com/pressly/goose/v3"
)

// migrationTable is goose's record of what was applied.
const migrationTable = "flotilla_migration"

// migrationLock is the key of the advisory lock under which one replica migrates while the others wait; indexLock the
// one for indexes.
const (
	migrationLock int64 = 0x666c6f7469_01
	indexLock     int64 = 0x666c6f7469_02
)

const (
	// lockPoll is how often a waiting replica tries an advisory lock. It does not wait inside pg_advisory_lock: CREATE
	// INDEX CONCURRENTLY would wait for that transaction, and never end.
	lockPoll = 100 * time.Millisecond
	// tableLockTimeout bounds the wait for a table: while a migration waits, every statement on that table waits behind
	// it. It is below the server's deadlock_timeout (1 s), so that the migration is the side of a deadlock that fails.
	tableLockTimeout = 100 * time.Millisecond
	// vacuumLockTimeout bounds the wait for an autovacuum of the table, which blocks no statement. It is above
	// deadlock_timeout, after which Postgres ends the autovacuum in favour of the waiting session.
	vacuumLockTimeout = 3 * time.Second
	// tableLockPauseMin and tableLockPauseMax bound the growing pauses between attempts, which let other statements run.
	tableLockPauseMin = 200 * time.Millisecond
	tableLockPauseMax = 10 * time.Second
)

// ErrNotOwner: the database needs a migration that the role may not do.
var ErrNotOwner = errors.New("the database needs a migration, which only the owner of its tables can do: " +
	"run `flotilla-os migrate` as that role, or set create_database_schema to false")

// Migrate adds the tables and columns that this program needs to a new database or an existing one of Flotilla. It
// waits while another replica migrates, and returns when all is done or ctx ends. It returns ErrNotOwner if there is
// something to do and the role lacks the right to change tables. It builds no indexes: see BuildIndexes.
func Migrate(ctx context.Context, url string, logger *slog.Logger) (err error) {
	db, err := openMaintenance(url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := CheckPrimary(ctx, sqlx.NewDb(db, "postgres")); err == nil {
		return nil
	}
	provider, err := newProvider(db)
	if err != nil {
		return err
	}
	return untilUnlocked(ctx, logger, "migration", func() error {
		results, err := provider.Up(ctx)
		for _, result := range results {
			logger.Info("migrated", "table", migrations[result.Source.Version-1].table,
				"version", result.Source.Version, "duration", result.Duration.String())
		}
		var pgErr *pq.Error
		if errors.As(err, &pgErr) && pgErr.Code == pqerror.InsufficientPrivilege {
			return fmt.Errorf("%w (%s)", ErrNotOwner, pgErr.Message)
		}
		return err
	})
}

// untilUnlocked calls fn again, after growing pauses, while it fails because others use its table. It returns the last
// error of fn, joined with that of ctx once ctx has ended.
func untilUnlocked(ctx context.Context, logger *slog.Logger, work string, fn func() error) error {
	for wait := tableLockPauseMin; ; wait = min(2*wait, tableLockPauseMax) {
		err := fn()
		if err != nil && ctx.Err() != nil {
			return errors.Join(ctx.Err(), err) // The driver reports only that the statement was canceled.
		}
		if !isLockTimeout(err) {
			return err
		}
		logger.Warn("a table is in use by others; trying again", "work", work, "pause", wait.String(), "error", err)
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// openMaintenance returns a pool for migrations and index builds.
func openMaintenance(url string) (*sql.DB, error) {
	c, err := newConnector(url, 0)
	if err != nil {
		return nil, fmt.Errorf("database_url: %w", err)
	}
	return sql.OpenDB(c), nil
}

func newProvider(db *sql.DB) (*goose.Provider, error) {
	steps := make([]*goose.Migration, len(migrations))
	for i, m := range migrations {
		steps[i] = goose.NewGoMigration(int64(i+1), &goose.GoFunc{RunTx: m.run}, nil)
	}
	return goose.NewProvider(goose.DialectPostgres, db, nil, goose.WithGoMigrations(steps...),
		goose.WithTableName(migrationTable), goose.WithSessionLocker(migrationLocker{}),
		goose.WithDisableGlobalRegistry(true))
}

// run applies the migration in tx.
func (m migration) run(ctx context.Context, tx *sql.Tx) error {
	var exists bool
	if err := tx.QueryRowContext(ctx, `SELECT to_regclass($1) IS NOT NULL`, m.table).Scan(&exists); err != nil {
		return err
	}
	if !exists {
		if _, err := tx.ExecContext(ctx, m.create); err != nil {
			return err
		}
	}
	missing, err := m.missing(ctx, tx)
	if err != nil {
		return err
	}
	statements := []string{}
	if len(missing) > 0 {
		add := make([]string, len(missing))
		for i, c := range missing {
			add[i] = `ADD COLUMN ` + pq.QuoteIdentifier(c.name) + ` ` + c.definition
		}
		statements = append(statements, `ALTER TABLE `+m.table+` `+strings.Join(add, ", "))
	}
	if m.finish != "" {
		statements = append(statements, m.finish)
	}
	if len(statements) == 0 {
		return nil
	}
	// The weaker lock blocks no reader or writer, and ends an autovacuum. The stronger one then waits only for readers
	// and writers.
	statements = slices.Insert(statements, 0,
		fmt.Sprintf(`SET LOCAL lock_timeout = %d`, vacuumLockTimeout.Milliseconds()),
		`LOCK TABLE `+m.table+` IN SHARE UPDATE EXCLUSIVE MODE`,
		fmt.Sprintf(`SET LOCAL lock_timeout = %d`, tableLockTimeout.Milliseconds()))
	for _, statement := range statements {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// querier is a transaction or a pool.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// missing returns the columns of m that its table lacks: all of them if there is no table.
func (m migration) missing(ctx context.Context, q querier) (missing []column, err error) {
	names := make(pq.StringArray, len(m.columns))
	for i, c := range m.columns {
		names[i] = c.name
	}
	rows, err := q.QueryContext(ctx, `SELECT place FROM unnest($1::text[]) WITH ORDINALITY AS wanted (name, place)
		WHERE NOT EXISTS (SELECT FROM pg_attribute
			WHERE attrelid = to_regclass($2) AND attname = wanted.name AND attnum > 0 AND NOT attisdropped)
		ORDER BY place`, names, m.table)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var place int
		if err := rows.Scan(&place); err != nil {
			return nil, err
		}
		missing = append(missing, m.columns[place-1])
	}
	return missing, rows.Err()
}

// migrationLocker holds migrationLock on the session that migrates.
type migrationLocker struct{}

// SessionLock implements goose's lock.SessionLocker.
func (migrationLocker) SessionLock(ctx context.Context, conn *sql.Conn) error {
	if err := pollLock(ctx, conn, migrationLock); err != nil {
		return err
	}
	_, err := conn.ExecContext(ctx, `SELECT set_config('lock_timeout', $1, false)`, tableLockTimeout.String())
	return err
}

// SessionUnlock implements goose's lock.SessionLocker.
func (migrationLocker) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, `SELECT pg_advisory_unlock($1)`, migrationLock)
	return err
}

// pollLock takes an advisory lock of the session without waiting in the server.
func pollLock(ctx context.Context, conn *sql.Conn, key int64) error {
	for {
		var held bool
		if err := conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, key).Scan(&held); err != nil {
			return err
		}
		if held {
			return nil
		}
		if err := pause(ctx, lockPoll); err != nil {
			return err
		}
	}
}

// isLockTimeout reports whether another attempt may succeed: the table was locked, or a deadlock was found.
func isLockTimeout(err error) bool {
	var pgErr *pq.Error
	return errors.As(err, &pgErr) &&
		(pgErr.Code == pqerror.LockNotAvailable || pgErr.Code == pqerror.TRDeadlockDetected)
}

// pause waits for d, or for the end of ctx, which it returns.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
