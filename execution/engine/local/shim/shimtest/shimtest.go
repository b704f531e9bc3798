// Package shimtest holds what tests of shims and of the local engine share: the test binary as the shim, and waiting for
// what scripts write.
package shimtest

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/stitchfix/flotilla-os/execution/engine/local/shim"
)

// Patience bounds how long a test waits for what must happen.
const Patience = 90 * time.Second

// Main lets the test binary be the shim, as the program is, so that the tests run real shims.
func Main(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == shim.Command {
		os.Exit(shim.Run(os.Args[2:])) //nolint:forbidigo // here the test binary is the program
	}
	goleak.VerifyTestMain(m)
}

// Eventually waits until condition holds.
func Eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, Patience, 5*time.Millisecond, what)
}

// Content returns the content of a file, empty if it cannot be read.
func Content(path string) string {
	body, _ := os.ReadFile(path)
	return string(body)
}

// PID waits until a script has written a process id to a file of its work folder.
func PID(t *testing.T, folder shim.Folder, name string) int {
	t.Helper()
	var pid int
	Eventually(t, "a process id in "+name, func() bool {
		n, err := strconv.Atoi(strings.TrimSpace(Content(filepath.Join(folder.WorkDir(), name))))
		pid = n
		return err == nil
	})
	return pid
}

// Launch starts a shim on a prepared folder and ends it with the test.
func Launch(t *testing.T, folder shim.Folder) *shim.Process {
	t.Helper()
	launcher := shim.Launcher{Program: shim.OwnProgram}
	process, err := launcher.Launch(folder)
	require.NoError(t, err, "shim.log: %s", Content(filepath.Join(string(folder), "shim.log")))
	t.Cleanup(func() {
		_ = shim.Terminate(folder)
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		_ = process.Wait(ctx)
	})
	return process
}

// Ended waits for the shim and returns the result.
func Ended(t *testing.T, process *shim.Process) shim.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	require.NoError(t, process.Wait(ctx))
	exit, err := process.Folder.ReadExit()
	require.NoError(t, err)
	require.NotNil(t, exit, "no result; shim.log: %s", Content(filepath.Join(string(process.Folder), "shim.log")))
	return *exit
}
