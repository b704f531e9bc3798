package database

import (
	"context"
	"errors"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// Reasons why a reachable database cannot be used as database_url.
var (
	// ErrStandby: the connection leads to a server that only reads.
	ErrStandby = errors.New("database_url leads to a standby; it must lead to the primary")
	// ErrPooled: queries of one connection run in several server sessions.
	ErrPooled = errors.New("database_url leads through a transaction pooler; it must be a session connection, " +
		"because advisory locks and LISTEN need one")
	// ErrNotMigrated: tables or columns are missing.
	ErrNotMigrated = errors.New("the database has not been migrated; run `flotilla-os migrate` or set create_database_schema")
)

// CheckPrimary returns an error unless db responds, is the primary and has all migrations of tables, in one round trip.
// Indexes may be missing.
func CheckPrimary(ctx context.Context, db *sqlx.DB) error {
	var row struct {
		Standby bool  `db:"standby"`
		Version int64 `db:"version"`
	}
	err := db.GetContext(ctx, &row, `
		SELECT pg_is_in_recovery() AS standby, COALESCE(max(version_id), 0) AS version
		FROM flotilla_migration
		WHERE is_applied`)
	var pgErr *pq.Error
	switch {
	case errors.As(err, &pgErr) && pgErr.Code == pqerror.UndefinedTable:
		return ErrNotMigrated
	case err != nil:
		return err
	case row.Standby:
		return ErrStandby
	case row.Version < int64(len(migrations)):
		return ErrNotMigrated
	}
	return nil
}

// CheckSessions returns ErrPooled if db leads through a transaction pooler: while a second connection holds a
// transaction, the first must still be in its server session, and the second in another. It checks three times, because
// a busy pooler may give one connection the same server session twice.
func CheckSessions(ctx context.Context, db *sqlx.DB) error {
	for range 3 {
		same, err := probeSessions(ctx, db)
		if err != nil {
			return err
		}
		if !same {
			return ErrPooled
		}
	}
	return nil
}

func probeSessions(ctx context.Context, db *sqlx.DB) (same bool, err error) {
	const pidSQL = `SELECT pg_backend_pid()`
	conn, err := db.Connx(ctx)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	var before, other, after int
	if err := conn.GetContext(ctx, &before, pidSQL); err != nil {
		return false, err
	}
	tx, err := db.BeginTxx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, tx.Rollback()) }()
	if err := tx.GetContext(ctx, &other, pidSQL); err != nil {
		return false, err
	}
	if err := conn.GetContext(ctx, &after, pidSQL); err != nil {
		return false, err
	}
	return before == after && before != other, nil
}
