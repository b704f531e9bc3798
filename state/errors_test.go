package state_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	sqlmock "github.com/DATA-DOG/go-sqlmock"
	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/database"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

func TestDriverErrorsBecomeDomainErrors(t *testing.T) {
	t.Parallel()
	code := func(c string) error { return &pq.Error{Code: pqerror.Code(c)} }
	for name, c := range map[string]struct {
		err  error
		want any
	}{
		"shut down by the administrator": {code("57P01"), new(state.Unavailable)},
		"crashed":                        {code("57P02"), new(state.Unavailable)},
		"starting":                       {code("57P03"), new(state.Unavailable)},
		"too many connections":           {code("53300"), new(state.Unavailable)},
		"the connection failed":          {code("08006"), new(state.Unavailable)},
		"became a standby":               {code("25006"), new(state.Unavailable)},
		"canceled":                       {code("57014"), new(state.Unavailable)},
		"refused":                        {&net.OpError{Op: "dial", Err: errors.New("refused")}, new(state.Unavailable)},
		"cut off":                        {io.ErrUnexpectedEOF, new(state.Unavailable)},
		"ran out of time":                {context.DeadlineExceeded, new(state.Unavailable)},
		"a key that is there":            {code("23505"), new(state.ConflictingResource)},
		"a reference to nothing":         {code("23503"), new(state.ConflictingResource)},
		"a number too large":             {code("22003"), new(state.MalformedInput)},
		"NUL":                            {code("22021"), new(state.MalformedInput)},
		"NUL in JSON":                    {code("22P05"), new(state.MalformedInput)},
		"a key too long":                 {code("54000"), new(state.MalformedInput)},
		"an error of ours":               {state.Missingf("gone"), new(state.MissingResource)},
	} {
		assert.ErrorAs(t, state.InterpretError(c.err), c.want, name)
		wrapped := errors.Join(errors.New("while reading"), c.err)
		assert.ErrorAs(t, state.InterpretError(wrapped), c.want, name)
	}
	for name, err := range map[string]error{
		"a fault in a query": code("42601"),
		"a conflict":         code("40001"),
		"anything else":      errors.New("anything"),
	} {
		assert.Equal(t, err, state.InterpretError(err), name)
	}
	require.NoError(t, state.InterpretError(nil))
}

func TestADatabaseThatIsAwayIsUnavailableAndComesBack(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	url := server.CreateDatabase("restarted")
	m := statetest.Open(t, url)
	require.ErrorIs(t, m.Check(t.Context()), database.ErrNotMigrated)
	require.NoError(t, statetest.Migrate(t.Context(), url))
	require.NoError(t, m.Check(t.Context()))
	require.NoError(t, m.CreateDefinition(t.Context(), fullDefinition("kept")))
	server.Kill()
	for name, call := range map[string]func() error{
		"check":  func() error { return m.Check(t.Context()) },
		"read":   func() error { _, err := m.GetDefinitionByAlias(t.Context(), "kept"); return err },
		"write":  func() error { return m.CreateDefinition(t.Context(), fullDefinition("lost")) },
		"list":   func() error { _, err := m.ListRuns(t.Context(), state.ListOptions{Limit: 1}); return err },
		"status": func() error { _, err := m.ListClusters(t.Context()); return err },
	} {
		var unavailable state.Unavailable
		require.ErrorAs(t, call(), &unavailable, name)
	}
	server.Start()
	require.EventuallyWithT(t, func(c *assert.CollectT) { assert.NoError(c, m.Check(t.Context())) }, 20*time.Second, 50*time.Millisecond)
	_, err := m.GetDefinitionByAlias(t.Context(), "kept")
	require.NoError(t, err)
}

// A pooler and a standby would need another server.
func TestADatabaseThatCannotServeIsRefused(t *testing.T) {
	t.Parallel()
	pid := func(n int) *sqlmock.Rows { return sqlmock.NewRows([]string{"pg_backend_pid"}).AddRow(n) }
	primary := func(mock sqlmock.Sqlmock, standby bool, version int) {
		mock.ExpectQuery("pg_is_in_recovery").WillReturnRows(
			sqlmock.NewRows([]string{"standby", "version"}).AddRow(standby, version))
	}
	for name, c := range map[string]struct {
		expect func(sqlmock.Sqlmock)
		want   error
	}{
		"a standby":                      {func(mock sqlmock.Sqlmock) { primary(mock, true, 1000) }, database.ErrStandby},
		"a database of an older version": {func(mock sqlmock.Sqlmock) { primary(mock, false, 1) }, database.ErrNotMigrated},
		"two connections in one session": {func(mock sqlmock.Sqlmock) {
			primary(mock, false, 1000)
			mock.ExpectQuery("pg_backend_pid").WillReturnRows(pid(7))
			mock.ExpectBegin()
			mock.ExpectQuery("pg_backend_pid").WillReturnRows(pid(7))
			mock.ExpectQuery("pg_backend_pid").WillReturnRows(pid(8))
			mock.ExpectRollback()
		}, database.ErrPooled},
		"a connection whose session changes": {func(mock sqlmock.Sqlmock) {
			primary(mock, false, 1000)
			mock.ExpectQuery("pg_backend_pid").WillReturnRows(pid(7))
			mock.ExpectBegin()
			mock.ExpectQuery("pg_backend_pid").WillReturnRows(pid(8))
			mock.ExpectQuery("pg_backend_pid").WillReturnRows(pid(9))
			mock.ExpectRollback()
		}, database.ErrPooled},
	} {
		db, mock, err := sqlmock.New()
		require.NoError(t, err)
		c.expect(mock)
		require.ErrorIs(t, state.NewMockedManager(db).Check(t.Context()), c.want, name)
		require.NoError(t, mock.ExpectationsWereMet(), name)
		_ = db.Close() // The mock expects it once for each connection.
	}
}

func TestAnUnusableURLIsRefusedWithoutItsPassword(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "postgres://u:secret@host:port/db", "host=x sslmode=secret"} {
		_, err := state.NewManager(state.ManagerConfig{URL: url, Logger: slog.New(slog.DiscardHandler)})
		require.ErrorContains(t, err, "database_url")
		assert.NotContains(t, err.Error(), "secret")
	}
}
