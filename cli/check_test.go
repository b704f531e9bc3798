package cli_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/cli"
	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

// shippedConfig holds keys of the old program's own configuration file that differ here.
const shippedConfig = `
enabled_workers: [retry, submit]
redis_address: redis.example.com:6379
eks_log_driver_options_s3_bucket_name: logs
eks_manifest_storage_options_s3_bucket_name: manifests
`

// oldInstallation returns a folder with the old program's configuration, and a database with every oddity that old ones
// have been seen to hold.
func oldInstallation(t *testing.T) (dir string, db *pgtest.DB) {
	t.Helper()
	dir, db = t.TempDir(), pgtest.New(t)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.yml"), []byte(shippedConfig), 0o600))
	for _, script := range []string{"old_database.sql", "old_oddities.sql"} {
		text, err := os.ReadFile(filepath.Join("..", "state", "testdata", script))
		require.NoError(t, err)
		_, err = db.Open(t).ExecContext(t.Context(), string(text))
		require.NoError(t, err)
	}
	return dir, db
}

// run executes a command line and returns its exit status and what it printed.
func run(t *testing.T, environ []string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	status = cli.Run(args, cli.Terminal{Environ: environ, Stdout: &out, Stderr: &errOut})
	return status, out.String(), errOut.String()
}

func TestCheckTakeoverListsWhatWillDiffer(t *testing.T) {
	dir, db := oldInstallation(t)
	status, out, errOut := run(t, []string{"DATABASE_URL=" + db.URL}, "check", "takeover", dir)
	assert.Zero(t, status, errOut)
	for _, line := range []string{
		"differs  enabled_workers: this key has no effect; worker_types",
		"differs  eks_log_driver_options_s3_bucket_name: ",
		"differs  eks_manifest_storage_options_s3_bucket_name: ",
		"those that are in S3 are not read",
		"differs  definitions: 1 have adaptive_resource_allocation false, which the old program ignored",
		"differs  definitions: 1 require docker",
		"differs  runs: 2 are Spark runs that are not over",
		"spark-active, spark-queued",
		"differs  runs: 1 have been QUEUED for more than adopt_queued_max_age",
		"differs  task.env: 6 rows hold JSON of another shape",
		"differs  task.pod_events: ",
		"differs  clusters: 2 rows are named sun",
		"note     clusters: moon (offline) was neither changed nor used for 30 days",
		"note     schema: the first start adds ",
		"note     indexes: ",
		"note     workers: 3 worker types have several rows",
		"note     definitions: 1 hold an empty tag",
		"note     runs: 1 are not over and have a command_hash made from something else",
	} {
		assert.Contains(t, out, line)
	}
	assert.NotContains(t, out, "redis", "the old program's redis is not missed")
	assert.NotContains(t, out, levelStops)

	var tables int
	require.NoError(t, db.Open(t).QueryRowContext(t.Context(),
		`SELECT count(*) FROM pg_class WHERE relname LIKE 'flotilla%'`).Scan(&tables))
	assert.Zero(t, tables, "the check changes nothing")
}

const levelStops = "stops    "

func TestCheckTakeoverReportsItsObstacles(t *testing.T) {
	dir, db := oldInstallation(t)
	status, out, _ := run(t, []string{"DATABASE_URL=" + db.URL, "CREATE_DATABASE_SCHEMA=false"}, "check", "takeover", dir)
	assert.Equal(t, 1, status)
	assert.Contains(t, out, levelStops)
	assert.Contains(t, out, "create_database_schema is false: run flotilla-os migrate")

	status, _, errOut := run(t, []string{"DATABASE_URL=postgres://nobody:secret@127.0.0.1:1/none?sslmode=disable"}, "check", "takeover", dir)
	assert.Equal(t, 1, status)
	assert.Contains(t, errOut, "cannot read the database")
	assert.NotContains(t, errOut, "secret")
}

func TestCheckTakeoverPrintsJSON(t *testing.T) {
	dir, db := oldInstallation(t)
	status, out, errOut := run(t, []string{"DATABASE_URL=" + db.URL}, "check", "takeover", "--json", dir)
	assert.Zero(t, status, errOut)
	var report struct {
		Findings []struct{ Level, Where, Message string }
		Database struct {
			ActiveSpark struct{ Count int } `json:"active_spark"`
		}
	}
	require.NoError(t, json.Unmarshal([]byte(out), &report))
	assert.NotEmpty(t, report.Findings)
	assert.Equal(t, 2, report.Database.ActiveSpark.Count)
}

func TestMigrateDropsUnusedIndexesIfAsked(t *testing.T) {
	dir, db := oldInstallation(t)
	environ := []string{"DATABASE_URL=" + db.URL}
	status, out, errOut := run(t, environ, "migrate", dir)
	require.Zero(t, status, errOut)
	assert.Equal(t, "The database is up to date.\n", out)
	status, out, errOut = run(t, environ, "migrate", "--drop-unused", dir)
	require.Zero(t, status, errOut)
	assert.Contains(t, out, "DROPPED INDEX")
	assert.Contains(t, out, "MB")
	status, out, errOut = run(t, environ, "migrate", "--drop-unused", dir)
	require.Zero(t, status, errOut)
	assert.Contains(t, out, "No index was dropped.")
}

func TestCheckTakeoverOfACurrentDatabase(t *testing.T) {
	db := pgtest.New(t)
	require.NoError(t, statetest.Migrate(t.Context(), db.URL))
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.yml"), nil, 0o600))
	status, out, errOut := run(t, []string{"DATABASE_URL=" + db.URL}, "check", "takeover", dir)
	assert.Zero(t, status, errOut)
	assert.NotContains(t, out, "schema:")
}
