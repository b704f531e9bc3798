package database_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state/database"
	"github.com/stitchfix/flotilla-os/state/statetest"
	"github.com/stitchfix/flotilla-os/testkit"
)

var silent = slog.New(slog.DiscardHandler)

// schemaSQL reads all columns and indexes as one text, to compare databases by.
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

// oldDatabase returns a database of the old program.
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
	// This is what an interrupted build leaves.
	_, err := pool.ExecContext(t.Context(), `
		UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'flotilla_task_killed'::regclass`)
	require.NoError(t, err)
	before := count(t, pool, `SELECT 'flotilla_task_killed'::regclass::oid::int`)
	require.NoError(t, database.BuildIndexes(t.Context(), db.URL, silent))
	assert.NotEqual(t, before, count(t, pool, `SELECT 'flotilla_task_killed'::regclass::oid::int`))
	assert.Zero(t, count(t, pool, `SELECT count(*) FROM pg_index WHERE NOT indisvalid`))
}

// A table that a long transaction reads cannot be altered. The migration must not block later statements, and must
// finish once the transaction ends.
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
	require.Eventually(t, func() bool { return strings.Contains(logs.String(), "trying again") },
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
	// Another replica migrates, and does not end.
	_, err = conn.ExecContext(t.Context(), `SELECT pg_advisory_lock(l) FROM unnest(ARRAY[$1, $2]::bigint[]) AS l`,
		database.MigrationLock, database.IndexLock)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, database.Migrate(ctx, db.URL, silent), context.DeadlineExceeded)
	require.ErrorIs(t, database.BuildIndexes(ctx, db.URL, silent), context.DeadlineExceeded)
}

// A long reader keeps a table from being altered. Statements behind the waiting migration must not wait long.
func TestAMigrationBehindALongReaderDoesNotStallWriters(t *testing.T) {
	t.Parallel()
	db := oldDatabase(t)
	pool := db.Open(t)
	reader, err := pool.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = reader.ExecContext(t.Context(), `SELECT FROM task`)
	require.NoError(t, err)
	logs := &testkit.Log{}
	migrated := make(chan error, 1)
	go func() {
		migrated <- database.Migrate(t.Context(), db.URL, slog.New(slog.NewTextHandler(logs, nil)))
	}()
	var longest, total time.Duration
	begin := time.Now()
	for n := 0; strings.Count(logs.String(), "trying again") < 4; n++ {
		before := time.Now()
		_, err := pool.ExecContext(t.Context(), `INSERT INTO task (run_id, definition_id) VALUES ($1, 'def-full')`, fmt.Sprint("writer-", n))
		require.NoError(t, err)
		took := time.Since(before)
		longest, total = max(longest, took), total+took
		require.Less(t, time.Since(begin), time.Minute)
	}
	assert.Less(t, longest, 2*time.Second, "it was 5 s")
	require.NoError(t, reader.Rollback())
	require.NoError(t, <-migrated)
	require.NoError(t, statetest.Open(t, db.URL).Check(t.Context()))
}

func TestAMigrationDeadlocksNoWriter(t *testing.T) {
	t.Parallel()
	db := oldDatabase(t)
	pool := db.Open(t)
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for name, statements := range map[string][]string{
		"task first": {
			`INSERT INTO task (run_id, definition_id) VALUES (gen_random_uuid()::text, 'def-full')`,
			`UPDATE task_def SET memory = 1 WHERE definition_id = 'def-full'`,
		},
		"task_def first": {
			`UPDATE task_def SET memory = 2 WHERE definition_id = 'def-nulls'`,
			`UPDATE task SET status = status WHERE run_id = 'eks-nothing'`,
		},
	} {
		writers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				tx, err := pool.BeginTx(t.Context(), nil)
				if !assert.NoError(t, err, name) {
					return
				}
				for _, statement := range statements {
					_, err := tx.ExecContext(t.Context(), statement)
					assert.NoError(t, err, name)
				}
				assert.NoError(t, tx.Commit(), name)
			}
		})
	}
	assert.NoError(t, database.Migrate(t.Context(), db.URL, silent))
	close(stop)
	writers.Wait()
}

// asRole returns the URL of the database for a new role that owns nothing and may read and write all rows.
func asRole(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	pool := db.Open(t)
	role := "dml_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	for _, statement := range []string{
		`CREATE ROLE ` + role + ` LOGIN PASSWORD 'secret'`,
		`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ` + role,
		`REVOKE CREATE ON SCHEMA public FROM PUBLIC`,
	} {
		_, err := pool.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	t.Cleanup(func() {
		_, err := pool.ExecContext(context.WithoutCancel(t.Context()), `DROP OWNED BY `+role+`; DROP ROLE `+role)
		assert.NoError(t, err)
	})
	u, err := url.Parse(db.URL)
	require.NoError(t, err)
	u.User = url.UserPassword(role, "secret")
	return u.String()
}

func TestARoleThatOwnsNothingStartsIfNothingIsToBeMigrated(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, pgtest.Template("state", statetest.Migrate))
	address := asRole(t, db)
	require.NoError(t, database.Migrate(t.Context(), address, silent))
	require.NoError(t, database.BuildIndexes(t.Context(), address, silent))
	require.NoError(t, statetest.Open(t, address).Check(t.Context()))
}

func TestARoleThatOwnsNothingCannotMigrate(t *testing.T) {
	t.Parallel()
	db := oldDatabase(t)
	address := asRole(t, db)
	err := database.Migrate(t.Context(), address, silent)
	require.ErrorIs(t, err, database.ErrNotOwner)
	assert.NotContains(t, err.Error(), "\n")
	pool, err := database.Open(address, database.PoolConfig{})
	require.NoError(t, err)
	defer func() { require.NoError(t, pool.Close()) }()
	report, err := database.Inspect(t.Context(), pool)
	require.NoError(t, err)
	assert.Contains(t, report.NotOwned, "task")
	assert.Contains(t, report.NotOwned, "schema")
}

func TestUnusedIndexesAreListedAndDropped(t *testing.T) {
	t.Parallel()
	db := oldDatabase(t)
	pool := db.Open(t)
	_, err := database.DropUnused(t.Context(), db.URL, silent)
	require.ErrorContains(t, err, "is not built yet", "our indexes must be complete first")
	require.NoError(t, statetest.Migrate(t.Context(), db.URL))
	dropped, err := database.DropUnused(t.Context(), db.URL, silent)
	require.NoError(t, err)
	var names []string
	for _, index := range dropped {
		names = append(names, index.Name)
		assert.Positive(t, index.SizeBytes)
		assert.NotEmpty(t, index.Reason)
		assert.Contains(t, index.Definition, index.Name)
	}
	assert.ElementsMatch(t, []string{
		"ix_task_definition_id", "ix_task_cluster_name", "ix_task_status", "ix_task_group_name", "ix_task_arn", "ix_task_definition_started",
		"ix_task_cluster_status_finished", "ix_task_queued_status_engine", "ix_task_executable", "ix_task_executable_started",
	}, names)
	// The indexes of a new database stay: the tests of plans run on those.
	assert.Zero(t, count(t, pool, `SELECT count(*) FROM pg_indexes WHERE tablename = 'task'
		AND indexname NOT LIKE 'flotilla_task%' AND indexname NOT IN ('task_pkey', 'ix_task_env')`))
	again, err := database.DropUnused(t.Context(), db.URL, silent)
	require.NoError(t, err)
	assert.Empty(t, again)
}
