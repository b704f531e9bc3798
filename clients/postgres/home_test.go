package postgres

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRootServesTheDatabaseOfAUserAsThatUser(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	openUp(t, dir)
	first := start(t, config(dir))
	query(t, first.URL(), `CREATE TABLE note AS SELECT 'of a user' AS body`)
	stop(t, first)
	inside := filepath.Join(dir, homeDir)
	if os.Geteuid() == 0 { // creates what a start by that user would have created
		owner := strconv.Itoa(int(first.layout.owner.uid)) + ":" + strconv.Itoa(int(first.layout.owner.gid))
		require.NoError(t, exec.Command("cp", "-a", first.Home(), inside).Run())
		require.NoError(t, exec.Command("chown", owner, inside).Run())
		require.NoError(t, os.RemoveAll(first.Home()))
		require.NoError(t, os.Remove(filepath.Join(dir, locationFile)))
	}

	second := start(t, config(dir))
	assert.Equal(t, inside, second.Home())
	assert.Equal(t, first.layout.owner, second.layout.owner)
	assert.Equal(t, "of a user", query(t, second.URL(), `SELECT body FROM note`))
	assert.NoFileExists(t, filepath.Join(dir, locationFile))

	running, err := RunningURL(dir)
	require.NoError(t, err)
	assert.Equal(t, second.URL(), running)
}

func TestRunningURLReportsThatNoDatabaseRuns(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	_, err := RunningURL(dir)
	require.ErrorContains(t, err, "no database is running in "+dir)
	stop(t, start(t, config(dir)))
	_, err = RunningURL(dir)
	require.ErrorContains(t, err, "no database is running in "+dir)
}
