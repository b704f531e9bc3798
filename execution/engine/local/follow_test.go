package local

import (
	"context"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim/shimtest"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/testkit"
)

// TestShimSpeaksOfEndsAsTheRowsDo holds the shim's constants to those of package state, which the shim does not import.
func TestShimSpeaksOfEndsAsTheRowsDo(t *testing.T) {
	t.Parallel()
	assert.EqualValues(t, state.ExitCodeNeverStarted, shim.CodeNeverStarted)
	assert.EqualValues(t, state.ExitCodeDeadline, shim.CodeDeadline)
	assert.EqualValues(t, state.ExitCodeOOM, shim.CodeOOM)
	assert.Equal(t, state.ReasonOOMKilled, shim.ReasonOOM)
}

// away is a store and an observer whose database is away until a test says otherwise.
type away struct {
	*rows
	ids func() error
}

func (a away) ActiveRuns(context.Context, state.EngineKey, string, string, int) ([]state.Run, error) {
	return nil, a.ids()
}
func (a away) StoppedAmong(context.Context, []string) ([]string, error) { return nil, a.ids() }
func (a away) Heartbeat(context.Context, string, string) error          { return a.ids() }
func (a away) Observe(context.Context, engine.Observation) error        { return a.ids() }

func TestFailureOfATaskIsLoggedOnce(t *testing.T) {
	t.Parallel()
	var log testkit.Log
	e := makeEngine(t, t.TempDir(), away{newRows(), func() error { return errAway }},
		func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	require.NoError(t, e.Follow(ctx, newRows()))
	for _, task := range []string{"heartbeat", "admit runs"} {
		assert.Equal(t, 1, strings.Count(log.String(), "trying again\" task="+quoted(task)), "task %s, log: %s", task, log.String())
	}

	f := &follower{logger: e.cfg.Logger, failing: map[string]bool{}}
	f.report(t.Context(), "x", errAway)
	f.report(t.Context(), "x", nil)
	f.report(t.Context(), "x", nil)
	f.report(t.Context(), "x", errAway)
	assert.Equal(t, 2, strings.Count(log.String(), "trying again\" task=x"), "a new failure is logged again")
	assert.Equal(t, 1, strings.Count(log.String(), "succeeds again\" task=x"))
}

func quoted(task string) string {
	if strings.Contains(task, " ") {
		return `"` + task + `"`
	}
	return task
}

func TestFailureToRecordIsLoggedOnce(t *testing.T) {
	t.Parallel()
	var log testkit.Log
	r := newRows()
	e := makeEngine(t, t.TempDir(), r, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	tries := 0
	f := &follower{Engine: e, logger: e.cfg.Logger, observer: away{r, func() error {
		if tries++; tries < 4 {
			return errAway
		}
		return nil
	}}}
	require.NoError(t, f.observe(t.Context(), engine.Observation{RunID: "eks-1", Status: state.StatusRunning}))
	assert.Equal(t, 4, tries)
	assert.Equal(t, 1, strings.Count(log.String(), "trying again"), log.String())
}

// A failed update of the row used to be reported as tried again, and never was.
func TestExplanationThatWasNotRecordedIsTriedAgain(t *testing.T) {
	t.Parallel()
	r := newRows()
	e := makeEngine(t, t.TempDir(), r)
	run := queuedRun(r, "true", func(run *state.Run) { run.Status = state.StatusPending })
	e.admission.enqueueNew(ticketOf(run, shim.Spec{MemoryMB: 10}))
	f := &follower{Engine: e, logger: e.cfg.Logger, observer: r}
	r.fail = 1
	require.ErrorIs(t, f.explain(t.Context()), errAway)
	assert.Nil(t, r.get(run.RunID).StatusReason)
	require.NoError(t, f.explain(t.Context()))
	require.NotNil(t, r.get(run.RunID).StatusReason)
	assert.Contains(t, *r.get(run.RunID).StatusReason, "waits for 10 MB")
	assert.Empty(t, e.admission.unexplained(10), "and then said no more")
}

func TestUnreadableFileOfAnotherServerIsRemoved(t *testing.T) {
	t.Parallel()
	r := newRows()
	e := makeEngine(t, t.TempDir(), r)
	path := e.dataDir + "/" + incomingFolder + "/eks-1.one"
	require.NoError(t, os.WriteFile(path, []byte("x"), 0o600))
	f := &follower{Engine: e, logger: e.cfg.Logger}
	require.Error(t, f.takeIncoming())
	assert.Empty(t, shimtest.Content(path))
	require.NoError(t, f.takeIncoming())
}
