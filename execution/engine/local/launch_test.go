package local

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stitchfix/flotilla-os/state"
)

func spareOf(e *Engine) *shimProcess {
	e.shims.mu.Lock()
	defer e.shims.mu.Unlock()
	return e.shims.spare
}

func TestSpareShim(t *testing.T) {
	t.Parallel()
	r := newRows()
	e := makeEngine(t, t.TempDir(), r)
	stop := follow(t, e, r)
	eventually(t, "one is prepared", func() bool { return spareOf(e) != nil })
	spare := spareOf(e).child.Process.Pid

	run := queuedRun(r, "true")
	execute(t, e, r, run)
	awaitStatus(t, r, run, state.StatusStopped)
	started, err := e.folder(run.RunID, 1).ReadStarted()
	require.NoError(t, err)
	assert.Equal(t, spare, started.PID, "the spare one executed the run")

	eventually(t, "the next one is prepared", func() bool { return spareOf(e) != nil })
	spare = spareOf(e).child.Process.Pid
	require.NoError(t, unix.Kill(spare, unix.SIGKILL))
	run = queuedRun(r, "true")
	execute(t, e, r, run)
	got := awaitStatus(t, r, run, state.StatusStopped)
	assert.Equal(t, int64(0), *got.ExitCode, "a dead spare one costs a little time, not the run")

	eventually(t, "the next one is prepared", func() bool { return spareOf(e) != nil })
	spare = spareOf(e).child.Process.Pid
	stop()
	assert.True(t, gone(spare), "no shim is left waiting")
}

func TestSpareShimEndsWithItsServer(t *testing.T) {
	t.Parallel()
	process, err := spawn(ownProgram)
	require.NoError(t, err)
	pid := process.child.Process.Pid
	require.NoError(t, process.orders.Close()) // as the system does for a process that is killed
	eventually(t, "it ends", func() bool { return gone(pid) })
	process.dismiss()
}
