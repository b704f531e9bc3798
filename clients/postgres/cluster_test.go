package postgres

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAnInterruptedInitdbIsRepeated(t *testing.T) {
	t.Parallel()
	dir := emptyDataDir(t)
	l, err := newLayout(dir, config(dir))
	require.NoError(t, err)
	bin := t.TempDir()
	installed, err := FindBinaries(t.Context(), Search{})
	require.NoError(t, err)
	require.NoError(t, os.Chmod(bin, 0o755))
	require.NoError(t, os.Symlink(installed[0].postgres(), filepath.Join(bin, "postgres")))
	// Creates what initdb creates first, and is then killed, as for want of memory.
	half := "#!/bin/sh\nmkdir -p \"$2\"/base && echo " + strconv.Itoa(installed[0].Major) + " >\"$2\"/PG_VERSION && kill -KILL $$\n"
	require.NoError(t, os.WriteFile(filepath.Join(bin, "initdb"), []byte(half), 0o755))
	openUp(t, bin)

	cfg := config(dir)
	cfg.Search.BinDir = bin
	_, err = Start(testContext(t), cfg)
	require.ErrorContains(t, err, "initdb failed: signal: killed")
	assert.NoDirExists(t, l.cluster())
	// What is left if Flotilla is killed along with it.
	require.NoError(t, os.MkdirAll(filepath.Join(l.home, initPrefix+"1", ClusterDir, "base"), 0o700))

	server := start(t, config(dir))
	assert.Equal(t, database, query(t, server.URL(), `SELECT current_database()`))
	left, err := filepath.Glob(filepath.Join(l.home, initPrefix+"*"))
	require.NoError(t, err)
	assert.Empty(t, left)
}

// openUp gives every user access to a test's folder, because another user runs the server of root.
func openUp(t *testing.T, dir string) {
	t.Helper()
	for dir != os.TempDir() && dir != "/" {
		require.NoError(t, os.Chmod(dir, 0o755))
		dir = filepath.Dir(dir)
	}
}

func TestStartRefusesADatabaseOfAnotherMajorVersionInOneLine(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	server := start(t, config(dir))
	stop(t, server)
	version := filepath.Join(server.layout.cluster(), "PG_VERSION")
	require.NoError(t, os.WriteFile(version, []byte("12\n"), 0o600))

	_, err := Start(testContext(t), config(dir))
	require.ErrorIs(t, err, ErrVersionMismatch)
	assert.ErrorContains(t, err, "made by PostgreSQL 12")
	assert.NotContains(t, err.Error(), "\n")
}

func TestStartPrefersTheInstallationThatMadeTheDatabase(t *testing.T) {
	t.Parallel()
	installed := []Binaries{{Dir: "/b/17", Major: 17}, {Dir: "/b/15", Major: 15}}
	chosen, err := layout{}.binariesFor(installed, 15)
	require.NoError(t, err)
	assert.Equal(t, "/b/15", chosen.Dir)
	chosen, err = layout{}.binariesFor(installed, 0)
	require.NoError(t, err)
	assert.Equal(t, "/b/17", chosen.Dir)
}

func TestStartLeavesAFolderAloneThatIsNotADatabase(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	server := start(t, config(dir))
	stop(t, server)
	require.NoError(t, os.Remove(filepath.Join(server.layout.cluster(), "PG_VERSION")))
	_, err := Start(testContext(t), config(dir))
	require.ErrorContains(t, err, "is not a database")
	assert.DirExists(t, filepath.Join(server.layout.cluster(), "base"))
}

func TestStartReportsALostPasswordInOneLine(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	stop(t, start(t, config(dir)))
	require.NoError(t, os.Remove(filepath.Join(dir, passwordFile)))
	_, err := Start(testContext(t), config(dir))
	require.ErrorContains(t, err, filepath.Join(dir, passwordFile)+" is gone")
	assert.NotContains(t, err.Error(), "\n")
}

func TestStartReportsATakenPort(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	cfg := config(dataDir(t))
	address, ok := listener.Addr().(*net.TCPAddr)
	require.True(t, ok)
	cfg.Port = address.Port
	_, err = Start(testContext(t), cfg)
	require.ErrorIs(t, err, errPortTaken)
}

func TestStartReportsWhyTheServerEnded(t *testing.T) {
	t.Parallel()
	cfg := config(dataDir(t))
	cfg.Settings = map[string]string{"shared_buffers": "no size"}
	_, err := Start(testContext(t), cfg)
	require.ErrorContains(t, err, "shared_buffers")
	assert.NotContains(t, err.Error(), "\n")
}

func TestStartDoesNotUseAHomeOfAnotherUser(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	link := filepath.Join(parent, "link")
	require.NoError(t, os.Symlink(t.TempDir(), link))
	require.ErrorContains(t, makeHome(link, 0o700), "not a folder of this user")
	require.NoError(t, makeHome(filepath.Join(parent, "new"), 0o711))
	require.NoError(t, makeHome(filepath.Join(parent, "new"), 0o711))
}
