package state

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

// Check reports whether the database can be used now: it answers, it is the
// primary, sessions are sessions, and all migrations of tables are done.
// Indexes may still be missing. The first answer takes a few round trips, the
// later ones one.
func (m *Manager) Check(ctx context.Context) error {
	if err := checkPrimary(ctx, m.db); err != nil {
		return err
	}
	if !m.sessionChecked.Load() {
		if err := checkSessions(ctx, m.db); err != nil {
			return err
		}
		m.sessionChecked.Store(true)
	}
	return nil
}

const selectCheckSQL = `
SELECT pg_is_in_recovery() AS standby, COALESCE(max(version_id), 0) AS version
FROM flotilla_migration
WHERE is_applied`

func checkPrimary(ctx context.Context, db *sqlx.DB) error {
	var row struct {
		Standby bool  `db:"standby"`
		Version int64 `db:"version"`
	}
	err := db.GetContext(ctx, &row, selectCheckSQL)
	var pgErr *pq.Error
	switch {
	case errors.As(err, &pgErr) && pgErr.Code == pqerror.UndefinedTable:
		return ErrNotMigrated
	case err != nil:
		return interpretError(err)
	case row.Standby:
		return ErrStandby
	case row.Version < newestMigration():
		return ErrNotMigrated
	}
	return nil
}

// sessionProbes is how often checkSessions looks. A pooler that is busy with
// other clients may give one connection the same server session twice.
const sessionProbes = 3

// checkSessions tells a connection from a place at a transaction pooler: while
// a second connection holds a transaction, the first must still be in the
// server session that it was in, and the second in another.
func checkSessions(ctx context.Context, db *sqlx.DB) error {
	for range sessionProbes {
		same, err := probeSessions(ctx, db)
		if err != nil {
			return interpretError(err)
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
