package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/DATA-DOG/go-sqlmock"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A standby cannot be made to cancel a query at will, so these faults are mocked.
func TestFailuresOfAnEstimate(t *testing.T) {
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

func TestEffectiveCapabilities(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		row     []string
		implied []Capability
		want    []Capability
	}{
		"none":                              {},
		"those of the row":                  {row: []string{" shared-pool "}, want: []Capability{CapabilitySharedPool}},
		"those that its kind implies":       {implied: []Capability{CapabilityArch}, want: []Capability{CapabilityArch}},
		"both":                              {row: []string{"pool-sizing"}, implied: []Capability{CapabilityArch}, want: []Capability{CapabilityPoolSizing, CapabilityArch}},
		"the row takes an implied one away": {row: []string{"no-arch-affinity"}, implied: []Capability{CapabilityArch, CapabilityCapacityType}, want: []Capability{CapabilityCapacityType}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Cluster{Capabilities: tc.row}.EffectiveCapabilities(tc.implied...)
			for _, capability := range []Capability{CapabilityArch, CapabilityCapacityType, CapabilityPoolSizing, CapabilitySharedPool} {
				assert.Equal(t, slices.Contains(tc.want, capability), got.Has(capability), capability)
			}
		})
	}
}

func TestObjectsKeepNumbersAsTheyWereSent(t *testing.T) {
	t.Parallel()
	var o Object
	require.NoError(t, json.Unmarshal([]byte(`{"n": 1000000, "big": 9007199254740993, "half": 0.5, "in": [{"n": -1}], "huge": 18446744073709551616, "price": 1.10}`), &o))
	assert.Equal(t, Object{
		"n": json.Number("1000000"), "big": json.Number("9007199254740993"), "half": json.Number("0.5"),
		"in": []any{map[string]any{"n": json.Number("-1")}}, "huge": json.Number("18446744073709551616"), "price": json.Number("1.10"),
	}, o)
	assert.False(t, readJSON(&o, nil))
	assert.Nil(t, o)
	assert.False(t, readJSON(&o, []byte(`null`)))
	assert.Nil(t, o)
	for _, wrong := range []string{`[]`, `"x"`} {
		assert.Error(t, json.Unmarshal([]byte(wrong), &o), wrong)
	}
}

// docs/states.md must show the table of legal moves.
func TestLegalMovesAreDrawn(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/states.md")
	require.NoError(t, err)
	for _, from := range Statuses {
		var to []string
		for _, next := range Statuses {
			if from.MayBecome(next) {
				to = append(to, fmt.Sprintf("`%s`", next))
			}
		}
		row := fmt.Sprintf("| `%s` | %s |", from, strings.Join(to, ", "))
		if from.Final() {
			row = fmt.Sprintf("| `%s` | nothing: it is final |", from)
		}
		assert.Contains(t, string(page), row)
	}
}
