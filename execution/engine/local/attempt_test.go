package local

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
)

func TestNoSecondStart(t *testing.T) {
	t.Parallel()
	limits := anyLimits(t)
	t.Run("while the first lives", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limits, "echo once >>starts; echo $$ >ready; sleep 60")
		a := launched(t, folder)
		pidIn(t, folder, "ready")
		_, err := launch(ownProgram, folder)
		require.ErrorIs(t, err, errNoStart)
		require.NoError(t, terminate(folder))
		ended(t, a)
		assert.Equal(t, "once\n", contentOf(filepath.Join(folder.path(workFolder), "starts")))
	})
	t.Run("after the first has ended", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limits, "echo once >>starts")
		ended(t, launched(t, folder))
		_, err := launch(ownProgram, folder)
		require.ErrorIs(t, err, errNoStart)
		assert.Equal(t, "once\n", contentOf(filepath.Join(folder.path(workFolder), "starts")))
	})
	t.Run("of sixteen at once", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limits, "echo once >>starts; sleep 0.3")
		results := make(chan error)
		for range 16 {
			go func() {
				a, err := launch(ownProgram, folder)
				if err == nil {
					err = a.wait(context.Background())
				}
				results <- err
			}()
		}
		refused := 0
		for range 16 {
			if err := <-results; errors.Is(err, errNoStart) {
				refused++
			} else {
				require.NoError(t, err)
			}
		}
		assert.Equal(t, 15, refused)
		assert.Equal(t, "once\n", contentOf(filepath.Join(folder.path(workFolder), "starts")))
	})
}

func TestShimKilled(t *testing.T) {
	t.Parallel()
	for mode, limits := range availableModes(t) {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			folder := makeAttempt(t, limits, `setsid bash -c 'echo $$ >child; exec sleep 60' & echo $$ >main; sleep 60`)
			a := launched(t, folder)
			main, child := pidIn(t, folder, "main"), pidIn(t, folder, "child")
			started, err := folder.ReadStarted()
			require.NoError(t, err)
			require.NoError(t, unix.Kill(started.PID, unix.SIGKILL))
			require.NoError(t, a.wait(t.Context()))
			exit, err := folder.ReadExit()
			require.NoError(t, err)
			assert.Nil(t, exit, "started and gone without a result: lost")
			require.NoError(t, removeLeftovers(t.Context(), folder))
			eventually(t, "its processes are killed", func() bool { return gone(main) && gone(child) })
			assert.Empty(t, limits.existing(filepath.Base(filepath.Dir(string(folder)))+"-1"))
		})
	}
}

func TestAttach(t *testing.T) {
	t.Parallel()
	limits := anyLimits(t)
	t.Run("finds the shim and waits for its end", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limits, "while ! [ -e go ]; do sleep 0.02; done; exit 4")
		launched(t, folder)
		other, err := attach(folder)
		require.NoError(t, err)
		require.NotNil(t, other)
		require.NotNil(t, other.pidfd)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, other.wait(ctx), context.DeadlineExceeded)
		again, err := attach(folder)
		require.NoError(t, err)
		other.close()
		require.NoError(t, os.WriteFile(filepath.Join(folder.path(workFolder), "go"), nil, 0o600))
		assert.Equal(t, 4, ended(t, again).ExitCode)
	})
	t.Run("finds nothing before the start and after the end", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limits, "true")
		a, err := attach(folder)
		require.NoError(t, err)
		assert.Nil(t, a)
		ended(t, launched(t, folder))
		a, err = attach(folder)
		require.NoError(t, err)
		assert.Nil(t, a)
	})
	t.Run("watches the lock where the process cannot be seen", func(t *testing.T) {
		t.Parallel()
		folder := makeAttempt(t, limits, "sleep 0.3; exit 6")
		launched(t, folder)
		other := &attempt{folder: folder}
		assert.Equal(t, 6, ended(t, other).ExitCode)
	})
}
