package pgtest_test

import (
	"context"
	"database/sql"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Wrap(m)) }

var migrations atomic.Int32

func migrated() pgtest.Option {
	return pgtest.Template("notes", func(ctx context.Context, url string) error {
		migrations.Add(1)
		db, err := sql.Open("postgres", url)
		if err != nil {
			return err
		}
		defer db.Close()
		_, err = db.ExecContext(ctx, `CREATE TABLE note (body text); INSERT INTO note VALUES ('from the template')`)
		return err
	})
}

func TestEachTestHasItsOwnCloneOfOneTemplate(t *testing.T) {
	t.Parallel()
	for n := range 4 {
		t.Run(fmt.Sprintf("clone %d", n), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t, migrated()).Open(t)
			_, err := db.Exec(`INSERT INTO note VALUES ('of this test')`)
			require.NoError(t, err)
			var count int
			require.NoError(t, db.QueryRow(`SELECT count(*) FROM note`).Scan(&count))
			assert.Equal(t, 2, count)
			assert.EqualValues(t, 1, migrations.Load())
		})
	}
}

func TestTheDatabaseIsDroppedWithTheTest(t *testing.T) {
	t.Parallel()
	var name string
	t.Run("a test", func(t *testing.T) {
		db := pgtest.New(t)
		name = db.Name
		require.NoError(t, db.Open(t).Ping())
	})
	var exists bool
	err := pgtest.New(t).Open(t).QueryRow(`SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)`, name).Scan(&exists)
	require.NoError(t, err)
	assert.False(t, exists)
}

func TestAKilledServerKeepsWhatWasCommitted(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t, pgtest.Setting("max_connections", "20"))
	url := server.CreateDatabase("crash")
	db := open(t, url)
	_, err := db.Exec(`CREATE TABLE note (body text)`)
	require.NoError(t, err)
	unfinished, err := db.Begin()
	require.NoError(t, err)
	_, err = unfinished.Exec(`INSERT INTO note VALUES ('never committed')`)
	require.NoError(t, err)
	_, err = db.Exec(`INSERT INTO note VALUES ('committed')`)
	require.NoError(t, err)

	server.Kill()
	require.Error(t, db.Ping())
	require.Error(t, unfinished.Commit())
	server.Start()

	var body string
	require.NoError(t, db.QueryRow(`SELECT string_agg(body, ',') FROM note`).Scan(&body))
	assert.Equal(t, "committed", body)
	assert.Equal(t, url, server.URL("crash"))
}

func open(t *testing.T, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}
