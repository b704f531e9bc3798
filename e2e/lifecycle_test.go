package e2e

import (
	"bufio"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

// SIGTERM arrives while one run runs, another waits for its claim and a client follows a log (architecture.md, Production).
func TestSIGTERMStopsTheServerButNotItsRuns(t *testing.T) {
	t.Parallel()
	in := newInstallation(t, statetest.NewURL(t))
	s := in.serve("one")
	ran, gate := in.marker("ran"), in.marker("gate")
	id := s.run(s.define("echo begun; " + untilExists(gate) + "; echo ran >> " + ran))
	log, err := http.Get(s.url + "/api/v6/" + id + "/logs?follow=true")
	require.NoError(t, err)
	defer func() { _ = log.Body.Close() }()
	lines := bufio.NewScanner(log.Body)
	for !strings.Contains(lines.Text(), "begun") {
		require.True(t, lines.Scan(), "the log ended")
	}
	s.stop()

	assert.Equal(t, http.StatusOK, log.StatusCode)
	assert.Zero(t, in.claimed(), "claims are handed back")
	in.awaitRuns(1, state.StatusRunning)
	in.touch(gate)
	in.await("the run to end without a server", func() bool { return len(in.lines(ran)) == 1 })
	again := in.serve("one")
	assert.EqualValues(t, 0, again.awaitStopped(id).code())
	assert.Len(t, in.lines(ran), 1)
}

// claimed returns the number of queued runs that a server holds a claim of.
func (in *installation) claimed() (n int) {
	in.t.Helper()
	err := in.db.QueryRowContext(in.t.Context(),
		`SELECT count(*) FROM task WHERE status = 'QUEUED' AND claimed_by IS NOT NULL`).Scan(&n)
	require.NoError(in.t, err)
	return n
}
