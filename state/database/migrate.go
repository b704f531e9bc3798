package database

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrationTable is goose's record of what was applied.
const migrationTable = "flotilla_migration"

// migrationLock is the key of the advisory lock under which one replica
// migrates while the others wait; indexLock the one for indexes.
const (
	migrationLock int64 = 0x666c6f7469_01
	indexLock     int64 = 0x666c6f7469_02
)

const (
	// lockPoll is how often a waiting replica asks for an advisory lock. It
	// does not wait inside pg_advisory_lock: that wait is a transaction which
	// CREATE INDEX CONCURRENTLY would wait for in turn, for ever.
	lockPoll = 100 * time.Millisecond
	// tableLockTimeout bounds the wait for a table: while a migration waits
	// for one, every query of that table waits behind it.
	tableLockTimeout = 5 * time.Second
	// tableLockPause lets those queries through before the next try.
	tableLockPause = time.Second
)

// Migrate brings the tables and columns of the database to what this program
// needs, in a new database or an existing one of Flotilla. It waits while
// another replica does, and returns when all is done or ctx ends. Indexes are
// BuildIndexes' part.
func Migrate(ctx context.Context, url string, logger *slog.Logger) (err error) {
	db, err := openMaintenance(url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	provider, err := newProvider(db)
	if err != nil {
		return err
	}
	for {
		results, err := provider.Up(ctx)
		for _, result := range results {
			logger.Info("migrated", "migration", result.Source.Path, "duration", result.Duration.String())
		}
		if !isLockTimeout(err) {
			return err
		}
		logger.Warn("a table is in use by others; the migration tries again", "error", err)
		if err := pause(ctx, tableLockPause); err != nil {
			return err
		}
	}
}

// openMaintenance makes a pool for migrations and index builds.
func openMaintenance(url string) (*sql.DB, error) {
	c, err := newConnector(url, 0)
	if err != nil {
		return nil, fmt.Errorf("database_url: %w", err)
	}
	return sql.OpenDB(c), nil
}

func newProvider(db *sql.DB) (*goose.Provider, error) {
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(migrationTable), goose.WithSessionLocker(migrationLocker{}),
		goose.WithDisableGlobalRegistry(true))
}

// newestMigration is the version that Check demands.
var newestMigration = sync.OnceValue(func() int64 {
	var newest int64
	entries, err := fs.ReadDir(migrationFiles, "migrations")
	if err != nil {
		panic(err) // The files are part of the program.
	}
	for _, entry := range entries {
		version, err := goose.NumericComponent(entry.Name())
		if err != nil {
			panic(err)
		}
		newest = max(newest, version)
	}
	return newest
})

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

// pollLock waits for an advisory lock of the session without a wait in the
// server.
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

// isLockTimeout reports whether another try may succeed: the table was locked,
// or locking several tables met others who did so in another order.
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
