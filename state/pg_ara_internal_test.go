package state

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"

	"github.com/DATA-DOG/go-sqlmock"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A standby cannot be made to cancel a query at will, so that these faults are
// feigned.
func TestWhatGoesWrongInAnEstimate(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault    error
		missing  bool
		logLevel string
	}{
		"a recovery conflict is missing history": {&pq.Error{Code: "40001"}, true, "INFO"},
		"a recovery deadlock is missing history": {&pq.Error{Code: "40P01"}, true, "INFO"},
		"any other failure is an error":          {&pq.Error{Code: "42P01"}, false, ""},
		"a lost connection is an error":          {errors.New("broken pipe"), false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db, mock, err := sqlmock.New()
			require.NoError(t, err)
			mock.ExpectPrepare("SELECT").ExpectQuery().WillReturnError(c.fault)
			var log bytes.Buffer
			m := &Manager{readDB: sqlx.NewDb(db, "postgres"), logger: slog.New(slog.NewTextHandler(&log, nil))}

			_, err = m.EstimateRunResources(t.Context(), "def", "hash")

			require.Error(t, err)
			assert.Equal(t, c.missing, errors.As(err, new(MissingResource)), err)
			if c.logLevel == "" {
				assert.Empty(t, log.String(), "an error is returned and not logged too")
			} else {
				assert.Contains(t, log.String(), "level="+c.logLevel)
				assert.Contains(t, log.String(), "definition_id=def")
			}
			mock.ExpectClose()
			require.NoError(t, db.Close())
		})
	}
}
