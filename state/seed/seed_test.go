package seed_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state/seed"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestRunsHaveTheSharesThatBenchmarksAssume(t *testing.T) {
	t.Parallel()
	const runs = 4000
	db := pgtest.New(t, pgtest.Template("state", statetest.Migrate)).Open(t)
	require.NoError(t, seed.Runs(t.Context(), db, runs, time.Now()))
	require.NoError(t, seed.Analyze(t.Context(), db))
	for question, want := range map[string]struct {
		query    string
		args     []any
		from, to int
	}{
		"all runs are there":                 {`SELECT count(*) FROM task`, nil, runs, runs},
		"one definition owns a quarter":      {`SELECT count(*) FROM task WHERE definition_id = $1`, []any{seed.BigDefinitionID}, runs / 4, runs / 4},
		"a tenth of those has its command":   {`SELECT count(*) FROM task WHERE definition_id = $1 AND command = $2`, []any{seed.BigDefinitionID, seed.BigCommand}, 60, 140},
		"hashes are those of the commands":   {`SELECT count(*) FROM task WHERE command_hash = md5(command)`, nil, runs, runs},
		"some were killed for memory":        {`SELECT count(*) FROM task WHERE exit_code = 137 AND exit_reason = 'OOMKilled'`, nil, 40, 160},
		"the newest are under way":           {`SELECT count(*) FROM task WHERE status <> 'STOPPED'`, nil, 40, 40},
		"they are spread over 90 days":       {`SELECT count(*) FROM task WHERE queued_at > now() - interval '9 days'`, nil, runs/10 - 50, runs/10 + 50},
		"ids are as long as those of others": {`SELECT count(*) FROM task WHERE length(run_id) = 36`, nil, runs, runs},
	} {
		var got int
		require.NoError(t, db.QueryRowContext(t.Context(), want.query, want.args...).Scan(&got), question)
		assert.True(t, want.from <= got && got <= want.to, "%s: %d, wanted %d to %d", question, got, want.from, want.to)
	}
}
