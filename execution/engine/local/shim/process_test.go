package shim_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stitchfix/flotilla-os/execution/engine/local/limits"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim/shimtest"
)

func TestNoSecondStart(t *testing.T) {
	t.Parallel()
	limit := anyLimits(t)
	t.Run("while the first lives", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limit, "echo once >>starts; echo $$ >ready; sleep 60")
		a := shimtest.Launch(t, folder)
		shimtest.PID(t, folder, "ready")
		_, err := launch(folder)
		require.ErrorIs(t, err, shim.ErrNotStarted)
		require.NoError(t, shim.Terminate(folder))
		shimtest.Ended(t, a)
		assert.Equal(t, "once\n", shimtest.Content(filepath.Join(folder.WorkDir(), "starts")))
	})
	t.Run("after the first has ended", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limit, "echo once >>starts")
		shimtest.Ended(t, shimtest.Launch(t, folder))
		_, err := launch(folder)
		require.ErrorIs(t, err, shim.ErrNotStarted)
		assert.Equal(t, "once\n", shimtest.Content(filepath.Join(folder.WorkDir(), "starts")))
	})
	t.Run("with sixteen at once", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limit, "echo once >>starts; sleep 0.3")
		results := make(chan error)
		for range 16 {
			go func() {
				a, err := launch(folder)
				if err == nil {
					err = a.Wait(context.Background())
				}
				results <- err
			}()
		}
		refused := 0
		for range 16 {
			if err := <-results; errors.Is(err, shim.ErrNotStarted) {
				refused++
			} else {
				require.NoError(t, err)
			}
		}
		assert.Equal(t, 15, refused)
		assert.Equal(t, "once\n", shimtest.Content(filepath.Join(folder.WorkDir(), "starts")))
	})
}

func TestShimKilled(t *testing.T) {
	t.Parallel()
	for mode, limit := range availableModes(t) {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			folder := makeAttempt(t, limit, `setsid bash -c 'echo $$ >child; exec sleep 60' & echo $$ >main; sleep 60`)
			a := shimtest.Launch(t, folder)
			main, child := shimtest.PID(t, folder, "main"), shimtest.PID(t, folder, "child")
			started, err := folder.ReadStarted()
			require.NoError(t, err)
			require.NoError(t, unix.Kill(started.PID, unix.SIGKILL))
			require.NoError(t, a.Wait(t.Context()))
			exit, err := folder.ReadExit()
			require.NoError(t, err)
			assert.Nil(t, exit, "started and gone without a result: lost")
			require.NoError(t, shim.KillOrphans(t.Context(), folder))
			shimtest.Eventually(t, "its processes are killed", func() bool { return limits.Gone(main) && limits.Gone(child) })
			assert.NotContains(t, limit.Names(), filepath.Base(filepath.Dir(string(folder)))+"-1")
		})
	}
}

func TestAttach(t *testing.T) {
	t.Parallel()
	limit := anyLimits(t)
	t.Run("finds the shim and waits for its end", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limit, "while ! [ -e go ]; do sleep 0.02; done; exit 4")
		shimtest.Launch(t, folder)
		other, err := shim.Attach(folder)
		require.NoError(t, err)
		require.NotNil(t, other)
		require.True(t, other.HasPIDFD())
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, other.Wait(ctx), context.DeadlineExceeded)
		again, err := shim.Attach(folder)
		require.NoError(t, err)
		other.Close()
		require.NoError(t, os.WriteFile(filepath.Join(folder.WorkDir(), "go"), nil, 0o600))
		assert.Equal(t, 4, shimtest.Ended(t, again).ExitCode)
	})
	t.Run("finds nothing before the start and after the end", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limit, "true")
		a, err := shim.Attach(folder)
		require.NoError(t, err)
		assert.Nil(t, a)
		shimtest.Ended(t, shimtest.Launch(t, folder))
		a, err = shim.Attach(folder)
		require.NoError(t, err)
		assert.Nil(t, a)
	})
	t.Run("watches the lock if the process cannot be seen", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limit, "sleep 0.3; exit 6")
		shimtest.Launch(t, folder)
		other := &shim.Process{Folder: folder}
		assert.Equal(t, 6, shimtest.Ended(t, other).ExitCode)
	})
}

func TestSpareShimEndsWithItsServer(t *testing.T) {
	t.Parallel()
	launcher := shim.Launcher{Program: shim.OwnProgram}
	require.NoError(t, launcher.Prepare())
	pid := launcher.SparePID()
	require.NoError(t, launcher.CloseSpareInput())
	shimtest.Eventually(t, "it ends", func() bool { return limits.Gone(pid) })
	launcher.Close()
}
