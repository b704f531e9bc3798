package database_test

import (
	"context"
	"database/sql"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state/database"
	"github.com/stitchfix/flotilla-os/state/statetest"
	"github.com/stitchfix/flotilla-os/testkit"
)

var silent = slog.New(slog.DiscardHandler)

// schemaSQL is a text of all columns and indexes, to compare databases by.
const schemaSQL = `
SELECT string_agg(line, E'\n' ORDER BY line) FROM (
	SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || COALESCE(column_default, '') AS line
	FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'flotilla_migration'
	UNION ALL
	SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
	UNION ALL
	SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
	WHERE connamespace = 'public'::regnamespace AND contype = 'f'
) AS lines`

func schemaOf(t testing.TB, db *sql.DB) (text string) {
	t.Helper()
	require.NoError(t, db.QueryRowContext(t.Context(), schemaSQL).Scan(&text))
	return text
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Wrap(m)) }

// oldDatabase is a database of the program before this one.
func oldDatabase(t testing.TB) *pgtest.DB {
	t.Helper()
	db := pgtest.New(t)
	script, err := os.ReadFile("../testdata/old_database.sql")
	require.NoError(t, err)
	_, err = db.Open(t).ExecContext(t.Context(), string(script))
	require.NoError(t, err)
	return db
}

func TestASecondMigrationChangesNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	require.NoError(t, statetest.Migrate(t.Context(), db.URL))
	pool := db.Open(t)
	first := schemaOf(t, pool)
	require.NoError(t, statetest.Migrate(t.Context(), db.URL))
	assert.Equal(t, first, schemaOf(t, pool))
	assert.Contains(t, first, "flotilla_task_killed")
	assert.NotContains(t, first, "task FOREIGN KEY", "a template is no definition")
}

func TestReplicasThatStartTogetherDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	var wait sync.WaitGroup
	for range 6 {
		wait.Go(func() {
			assert.NoError(t, database.Migrate(ctx, db.URL, silent))
			assert.NoError(t, database.BuildIndexes(ctx, db.URL, silent))
		})
	}
	wait.Wait()
	assert.Zero(t, count(t, db.Open(t), `SELECT count(*) FROM pg_index WHERE NOT indisvalid`))
	require.NoError(t, statetest.Open(t, db.URL).Check(ctx))
}

func count(t testing.TB, db *sql.DB, query string) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRowContext(t.Context(), query).Scan(&n))
	return n
}

func TestAnInvalidIndexIsBuiltAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	require.NoError(t, statetest.Migrate(t.Context(), db.URL))
	pool := db.Open(t)
	// What a build leaves behind that was cut off.
	_, err := pool.ExecContext(t.Context(), `
		UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'flotilla_task_killed'::regclass`)
	require.NoError(t, err)
	before := count(t, pool, `SELECT 'flotilla_task_killed'::regclass::oid::int`)
	require.NoError(t, database.BuildIndexes(t.Context(), db.URL, silent))
	assert.NotEqual(t, before, count(t, pool, `SELECT 'flotilla_task_killed'::regclass::oid::int`))
	assert.Zero(t, count(t, pool, `SELECT count(*) FROM pg_index WHERE NOT indisvalid`))
}

// A table that a long transaction reads cannot be altered; the migration must
// not keep those waiting that come after it, and must end when it can.
func TestAMigrationWaitsForATableInUseInTurns(t *testing.T) {
	t.Parallel()
	db := oldDatabase(t)
	pool := db.Open(t)
	tx, err := pool.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(t.Context(), `SELECT FROM task`)
	require.NoError(t, err)
	logs := &testkit.Log{}
	done := make(chan error, 1)
	go func() {
		done <- database.Migrate(t.Context(), db.URL, slog.New(slog.NewTextHandler(logs, nil)))
	}()
	require.Eventually(t, func() bool { return strings.Contains(logs.String(), "tries again") },
		30*time.Second, 50*time.Millisecond)
	require.NoError(t, tx.Rollback())
	require.NoError(t, <-done)
	require.NoError(t, statetest.Open(t, db.URL).Check(t.Context()))
}

func TestAMigrationEndsWithItsContext(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, err := db.Open(t).Conn(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	// Another replica is at it, and does not end.
	_, err = conn.ExecContext(t.Context(), `SELECT pg_advisory_lock(l) FROM unnest(ARRAY[$1, $2]::bigint[]) AS l`,
		database.MigrationLock, database.IndexLock)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, database.Migrate(ctx, db.URL, silent), context.DeadlineExceeded)
	require.ErrorIs(t, database.BuildIndexes(ctx, db.URL, silent), context.DeadlineExceeded)
}
