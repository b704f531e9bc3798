package postgres

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAFreshServerIsPrivate(t *testing.T) {
	t.Parallel()
	dir := emptyDataDir(t)
	var log bytes.Buffer
	cfg := config(dir)
	cfg.Settings = nil
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	server := start(t, cfg)

	assert.Equal(t, "UTF8", query(t, server.URL(), `SHOW server_encoding`))
	assert.Equal(t, locale(), query(t, server.URL(), `SHOW lc_collate`))
	assert.Equal(t, "scram-sha-256", query(t, server.URL(), `SHOW password_encryption`))
	assert.Equal(t, "127.0.0.1", query(t, server.URL(), `SHOW listen_addresses`))
	assert.Empty(t, query(t, server.URL(), `SHOW unix_socket_directories`))
	assert.Equal(t, "on", query(t, server.URL(), `SHOW fsync`))
	assert.Equal(t, database, query(t, server.URL(), `SELECT current_database()`))
	assert.False(t, server.Adopted())

	info, err := os.Stat(filepath.Join(dir, passwordFile))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	stranger := &Server{layout: server.layout, port: server.port, password: "guess"}
	require.ErrorContains(t, stranger.ensureDatabase(t.Context()), "password authentication failed")

	group, err := syscall.Getpgid(server.PID())
	require.NoError(t, err)
	assert.NotEqual(t, syscall.Getpgrp(), group, "Ctrl-C at our terminal would reach the server")
	assert.Equal(t, os.Geteuid() == 0, bytes.Contains(log.Bytes(), []byte("unprivileged user")))
	assert.NotContains(t, log.String(), server.password)
}

func TestTheServerOfRootRunsAsAnotherUser(t *testing.T) {
	t.Parallel()
	server := start(t, config(emptyDataDir(t)))
	info, err := os.Stat(filepath.Join("/proc", strconv.Itoa(server.PID())))
	require.NoError(t, err)
	stat, ok := info.Sys().(*syscall.Stat_t)
	require.True(t, ok)
	if os.Geteuid() != 0 {
		assert.EqualValues(t, os.Geteuid(), stat.Uid)
		return
	}
	assert.NotZero(t, stat.Uid)
	assert.Equal(t, usualHomeParent, filepath.Dir(server.Home()))
	recorded, err := os.ReadFile(filepath.Join(server.layout.dataDir, locationFile))
	require.NoError(t, err)
	assert.Equal(t, server.Home()+"\n", string(recorded))
}

func TestASecondStartKeepsTheData(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	first := start(t, config(dir))
	query(t, first.URL(), `CREATE TABLE note AS SELECT 'kept' AS body`)
	stop(t, first)

	second := start(t, config(dir))
	assert.Equal(t, "kept", query(t, second.URL(), `SELECT body FROM note`))
	assert.False(t, second.Adopted())
}

func TestStopLeavesNoProcess(t *testing.T) {
	t.Parallel()
	server := start(t, config(dataDir(t)))
	require.NotEmpty(t, serverProcesses(t, server.layout))
	stop(t, server)
	assert.Empty(t, serverProcesses(t, server.layout))
	requireEnded(t, server.Done())
	require.NoError(t, server.Err(), "Stop is not a failure")
	stop(t, server) // a second time does nothing
}

func TestStopDoesNotOutlastItsContext(t *testing.T) {
	t.Parallel()
	server := start(t, config(dataDir(t)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, server.Stop(ctx), context.Canceled)
	assert.Empty(t, serverProcesses(t, server.layout))
	server.stopErr = nil // the cleanup calls Stop again
}

func TestErrReportsAServerThatDied(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	server := start(t, config(dir))
	query(t, server.URL(), `CREATE TABLE note AS SELECT 'committed' AS body`)
	require.NoError(t, server.Err())
	require.NoError(t, syscall.Kill(server.PID(), syscall.SIGKILL))
	requireEnded(t, server.Done())
	require.ErrorIs(t, server.Err(), ErrServerDied)
	stop(t, server)

	again := start(t, config(dir))
	assert.Equal(t, "committed", query(t, again.URL(), `SELECT body FROM note`))
}

func TestAServerLeftByACrashIsAdopted(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	crashed := startProgram(t, dir)
	crashed.kill()

	server := start(t, config(dir))
	assert.True(t, server.Adopted())
	assert.Equal(t, crashed.server, server.PID())
	assert.Equal(t, database, query(t, server.URL(), `SELECT current_database()`))
	stop(t, server)
	assert.Empty(t, serverProcesses(t, server.layout))
	require.NoError(t, server.Err())
}

func TestErrReportsAnAdoptedServerThatDied(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	startProgram(t, dir).kill()
	server := start(t, config(dir))
	require.True(t, server.Adopted())
	require.NoError(t, syscall.Kill(server.PID(), syscall.SIGQUIT))
	requireEnded(t, server.Done())
	require.ErrorIs(t, server.Err(), ErrServerDied)
}

func TestStartWaitsForAServerThatIsShuttingDown(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	crashed := startProgram(t, dir)
	crashed.kill()
	require.NoError(t, syscall.Kill(crashed.server, syscall.SIGINT))
	server := start(t, config(dir))
	assert.Equal(t, database, query(t, server.URL(), `SELECT current_database()`))
}

func TestStartRefusesAFolderThatIsInUse(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	other := startProgram(t, dir)

	_, err := Start(testContext(t), config(dir))
	require.ErrorIs(t, err, ErrDataDirInUse)
	assert.ErrorContains(t, err, dir)
	assert.ErrorContains(t, err, "(process "+strconv.Itoa(other.cmd.Process.Pid)+")")
	assert.NotContains(t, err.Error(), "\n")

	other.kill() // which unlocks the folder
	assert.True(t, start(t, config(dir)).Adopted())
}

func TestACopiedDataFolderOfRootDoesNotShareTheDatabase(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	server := start(t, config(dir))
	copied := emptyDataDir(t)
	record := server.Home() + "\n"
	require.NoError(t, os.WriteFile(filepath.Join(copied, locationFile), []byte(record), 0o600))
	second, err := Start(testContext(t), config(copied))
	if os.Geteuid() == 0 {
		require.ErrorIs(t, err, ErrDataDirInUse)
		return
	}
	require.NoError(t, err, "only root reads the record")
	assert.NotEqual(t, server.Home(), second.Home())
	stop(t, second)
}

func TestStartIgnoresAPostmasterPidOfAnotherProcess(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	server := start(t, config(dir))
	require.NoError(t, syscall.Kill(server.PID(), syscall.SIGKILL)) // leaves its postmaster.pid
	requireEnded(t, server.Done())
	stop(t, server)

	// PostgreSQL takes a process of the same user for a living server.
	other := exec.Command("sleep", "1000")
	server.layout.prepare(other)
	require.NoError(t, other.Start())
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	path := filepath.Join(server.layout.cluster(), postmasterPID)
	held, err := os.ReadFile(path)
	require.NoError(t, err)
	_, rest, _ := bytes.Cut(held, []byte("\n"))
	held = append([]byte(strconv.Itoa(other.Process.Pid)+"\n"), rest...)
	require.NoError(t, os.WriteFile(path, held, 0o600))

	again := start(t, config(dir))
	assert.False(t, again.Adopted())
	assert.NotEqual(t, other.Process.Pid, again.PID())
	require.NoError(t, other.Process.Signal(syscall.Signal(0)), "the other process was ended")
}

// A new server can get the process id of the dead one, for instance in a container that is started again. The dead one's
// file must not make it look ready.
func TestTheFileOfADeadServerNamesNoServer(t *testing.T) {
	t.Parallel()
	server := start(t, config(dataDir(t)))
	require.NoError(t, syscall.Kill(server.PID(), syscall.SIGKILL))
	requireEnded(t, server.Done())
	pid, _, ready := server.layout.postmasterFile()
	require.Equal(t, server.PID(), pid)
	require.True(t, ready)

	adopted, err := (&Server{layout: server.layout}).adopt(t.Context())
	require.NoError(t, err)
	assert.False(t, adopted)
	pid, _, _ = server.layout.postmasterFile()
	assert.Equal(t, os.Getpid(), pid)
}

func TestACancelledStartLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := emptyDataDir(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := Start(ctx, config(dir))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	server := start(t, config(dir)) // the next start succeeds
	left, err := filepath.Glob(filepath.Join(server.Home(), initPrefix+"*"))
	require.NoError(t, err)
	assert.Empty(t, left)
}
