package state_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

// The old program passed times to Postgres as they were, so each form that Postgres accepts must mean the same here.
func TestTimeFiltersMatchThoseOfPostgres(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.exec(t, `SET TIME ZONE 'UTC'`)
	for _, form := range []string{
		"2026-11-20T10:11:12Z", "2026-11-20T10:11:12+00:00", "2026-11-20T10:11:12+02:00", "2026-11-20T10:11:12-0730", "2026-11-20T10:11:12+0000",
		"2026-11-20T10:11:12-07", "2026-11-20 10:11:12", "2026-11-20 10:11:12 UTC", "2026-11-20 10:11:12 GMT", "2026-11-20 10:11:12 Z",
		"2026-11-20 10:11Z", "2026-11-20T10:11Z", "2026-11-20 10:11:12+00", "2026-11-20 10:11:12 +02:00", "20261120T101112Z", "20261120T101112",
		"20261120T101112+0200", "Fri, 20 Nov 2026 10:11:12 GMT", "Fri, 20 Nov 2026 10:11:12 +0100", "20 Nov 2026 10:11:12 GMT",
		"2026-11-20", "20261120", "2026-11-20T10:11", "2026-11-20 10:11", "2026-11-20T10:11:12", "2026-11-20T10:11:12.5Z",
		"2026-11-20T10:11:12.123456Z", "2026-11-20T10:11:12.123456789Z", "2026-11-20t10:11:12z", "2026-11-20T10:11:12utc", "2026-11-20 10:11:12.25 UTC",
		"2024-02-29", "2024-02-29T23:59:59.999999Z", "2026-11-20T24:00:00Z", "2026-11-20T23:59:60Z", "2026-11-20  10:11:12", " 2026-11-20T10:11:12Z ",
		"0001-01-01", "9999-12-31T23:59:59Z", "epoch", "2026-11-20Z", "2026-11-20 UTC", "2026-11-20 24:00", "2026-11-20T10:11:12+15:59",
	} {
		want := ask[time.Time](t, s, `SELECT CAST(CAST($1 AS text) AS timestamptz)`, form)
		s.exec(t, `DELETE FROM task`)
		s.exec(t, `INSERT INTO task (run_id, queued_at) VALUES ('before', $1::timestamptz - interval '1 us'), ('at', $1::timestamptz), ('after', $1::timestamptz + interval '1 us')`,
			want)
		for name, ids := range map[string][]string{"queued_at_since": {"after"}, "queued_at_until": {"before"}, "queued_at": {"at"}} {
			got, _ := s.runIDs(t, state.ListOptions{Filters: map[string][]string{name: {form}}})
			assert.Equal(t, ids, got, "%s=%q, which is %s", name, form, want)
		}
	}
}

func TestTimeFiltersByWords(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 20, 10, 11, 12, 0, time.UTC)
	s := newStore(t, func(c *state.ManagerConfig) { c.Clock = func() time.Time { return now } })
	for word, want := range map[string]time.Time{
		"now": now, "today": now.Truncate(24 * time.Hour), "Yesterday": now.Truncate(24*time.Hour).AddDate(0, 0, -1),
		"tomorrow": now.Truncate(24*time.Hour).AddDate(0, 0, 1),
		// A plus that arrived as a blank, which Postgres does not accept.
		"2026-11-20T10:00:00 00:00": now.Truncate(time.Hour), "2026-11-20T10:00:00 0200": now.Truncate(time.Hour).Add(-2 * time.Hour),
		"2026-11-20T10:00:00.000 02:00": now.Truncate(time.Hour).Add(-2 * time.Hour),
	} {
		s.exec(t, `DELETE FROM task`)
		s.exec(t, `INSERT INTO task (run_id, queued_at) VALUES ('at', $1)`, want)
		got, _ := s.runIDs(t, state.ListOptions{Filters: map[string][]string{"queued_at": {word}}})
		assert.Equal(t, []string{"at"}, got, word)
	}
}

func TestMalformedTimesAreRefused(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, text := range []string{
		"soon", "1763600000", "1763600000000", "2026", "2026-11", "2026-13-01", "2026-02-29", "2026-11-31", "2026-00-10", "2026-11-20T25:00:00Z",
		"2026-11-20T24:00:01Z", "2026-11-20T10:60:00Z", "2026-11-20T10:00:61Z", "2026-1120", "202611-20", "2026-11-20T10", "2026-11-20T10:0000Z",
		"2026-11-20T10:00:00 PST", "2026-11-20T10:00:00+16:00", "2026-11-20T10:00:00+0", "2026-11-20T10:00:00Z+00:00", "infinity", "-infinity",
		"10000-01-01", "-2026-11-20", "2026-11-20 BC", "0000-01-01", "20/11/2026", "11/20/2026", "2026-11-20T10:00:00Z; DROP TABLE task", "'2026-11-20'",
		"2026-11-20T10:00:00.Z", "\x00", "٢٠٢٦-11-20",
	} {
		_, err := s.ListRuns(t.Context(), state.ListOptions{Limit: 1, Filters: map[string][]string{"queued_at_since": {text}}})
		var malformed state.MalformedInput
		require.ErrorAs(t, err, &malformed, text)
		assert.Contains(t, malformed.Message, "2006-01-02T15:04:05Z or 2006-01-02", text)
	}
}
