package e2e

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

// SIGTERM while a run is under way, another waits for its claim, and a client
// reads along (architecture.md, Production).
func TestSIGTERMEndsTheServerAndNoRun(t *testing.T) {
	t.Parallel()
	in := newInstallation(t, statetest.NewURL(t))
	s := in.start("one")
	marker := in.marker("ran")
	id := s.run(s.define("echo begun; sleep 2; echo ran >> "+marker), nil)
	log, err := http.Get(s.url + "/api/v6/" + id + "/logs?follow=true")
	require.NoError(t, err)
	defer func() { _ = log.Body.Close() }()
	lines := bufio.NewScanner(log.Body)
	for !strings.Contains(lines.Text(), "begun") {
		require.True(t, lines.Scan(), "the log ended")
	}

	s.stop()

	assert.Equal(t, http.StatusOK, log.StatusCode)
	var claimed int
	require.NoError(t, in.db.QueryRow(`SELECT count(*) FROM task WHERE status = 'QUEUED' AND claimed_by IS NOT NULL`).Scan(&claimed))
	assert.Zero(t, claimed, "claims that were not handed back")
	in.awaitRuns(1, string(state.StatusRunning), recovery)
	require.Eventually(t, func() bool { return len(in.lines(marker)) == 1 }, recovery, 20*time.Millisecond, "the run goes on without a server")
	in.start("one")
	rows := in.awaitRuns(1, string(state.StatusStopped), recovery)
	assert.EqualValues(t, 0, rows[0].code.Int64)
	assert.Len(t, in.lines(marker), 1)
}
