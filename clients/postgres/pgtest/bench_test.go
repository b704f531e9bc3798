package pgtest_test

import (
	"database/sql"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
)

func TestTheReferenceIsMeasuredAndLeavesNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, connections := range []int{1, 4} {
		ref := pgtest.MeasureReference(t, db.URL, connections)
		assert.Positive(t, ref.Read)
		assert.Positive(t, ref.Commit)
	}
	var left sql.NullString
	require.NoError(t, db.Open(t).QueryRow(`SELECT to_regclass('pgtest_reference')`).Scan(&left))
	assert.False(t, left.Valid)
}

// BenchmarkNew measures what a database of its own costs each test.
func BenchmarkNew(b *testing.B) {
	ref := pgtest.MeasureReference(b, pgtest.New(b, migrated()).URL, 1)
	for b.Loop() {
		pgtest.New(b, migrated())
	}
	ref.Report(b)
}

// BenchmarkDurableCommit measures a commit that survives a crash, in commits that do not.
func BenchmarkDurableCommit(b *testing.B) {
	ref := pgtest.MeasureReference(b, pgtest.New(b).URL, 1)
	db, err := sql.Open("postgres", pgtest.NewServer(b).CreateDatabase("durable"))
	require.NoError(b, err)
	defer db.Close()
	_, err = db.Exec(`CREATE TABLE note (body text)`)
	require.NoError(b, err)
	for b.Loop() {
		_, err := db.Exec(`INSERT INTO note VALUES ($1)`, "kept")
		require.NoError(b, err)
	}
	ref.Report(b)
}
