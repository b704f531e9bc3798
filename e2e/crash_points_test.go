package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/state"
)

// stage is the installation in which one crash happens.
type stage struct {
	*installation
	point fault.Name
	// ran gets a line from each execution of a command.
	ran string
	// gate is the marker that opens commands that wait.
	gate string
}

// crashCase tests one row of docs/crash-points.md: crash brings the program to the fault point, ends checks the outcome.
type crashCase struct {
	crash func(s *stage)
	ends  func(s *stage)
}

func crashCases() map[fault.Name]crashCase {
	return map[fault.Name]crashCase{
		fault.InsertCommitted:      {crashWhileRunning, executedOnce},
		fault.WakeUpNotSent:        {crashWhileRunning, executedOnce},
		fault.ClaimCommitted:       {crashWhileRunning, executedOnce},
		fault.ExecutePrepared:      {crashWhileRunning, executedOnce},
		fault.PendingCommitted:     {crashWhileFull, executedOnce},
		fault.StartIntentCommitted: {crashWhileRunning, executedOnce},
		fault.ProcessStarted:       {crashWhileRunning, executedOnce},
		fault.RunningCommitted:     {crashWhileRunning, executedOnce},
		fault.ExitSeen:             {crashWhileRunning, executedOnce},
		fault.StoppedCommitted:     {crashWhileRunning, executedOnce},
		fault.NeedsRetryCommitted:  {failFirstAttempt, executedOnSecondAttempt},
		fault.RetryRequeued:        {crashWhileRequeueing, executedOnSecondAttempt},
		fault.Deferred:             {crashWhileDeferring, executedOnce},
		fault.StopCommitted:        {crashWhileStopping, stoppedWith(state.ExitCodeNeverStarted, state.ReasonTerminated)},
		fault.DeadlineCommitted:    {crashAtDeadline, stoppedWith(state.ExitCodeDeadline, "deadline")},
		fault.ShimLocked:           {shimCrashBeforeStart, executedOnce},
		fault.ShimStartedRecorded:  {shimCrash, lost(0)},
		fault.ShimCommandStarted:   {shimCrashWithCommand, lost(1)},
		fault.ShimExitWritten:      {shimCrash, executedOnce},
	}
}

func TestCrashPoints(t *testing.T) {
	t.Parallel()
	pg := pgtest.NewServer(t)
	for point, c := range crashCases() {
		t.Run(string(point), func(t *testing.T) {
			t.Parallel()
			in := newInstallation(t, pg.CreateDatabase("crash_"+string(point)))
			s := &stage{in, point, in.marker("ran"), in.marker("gate")}
			c.crash(s)
			c.ends(s)
			in.await("no processes left", func() bool { return len(in.processes()) == 0 })
		})
	}
}

func TestEveryCrashPointHasARowAndATest(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "docs", "crash-points.md"))
	require.NoError(t, err)
	var rows []fault.Name
	for _, match := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		rows = append(rows, fault.Name(match[1]))
	}
	assert.ElementsMatch(t, fault.Names(), rows)
	for _, name := range fault.Names() {
		assert.Contains(t, crashCases(), name)
	}
}

// command returns a command that appends a line to the marker ran and writes a line to its log.
func (s *stage) command(more string) string {
	return fmt.Sprintf("echo $FLOTILLA_RUN_ID >> %s; echo hello from the run%s", s.ran, more)
}

// launch starts a server that dies at the fault point and submits one run to it.
func (s *stage) launch(command string) (server *server, run string) {
	server = s.start("a", faultAt(s.point))
	return server, server.tryRun(server.define(command))
}

func crashWhileRunning(s *stage) {
	server, _ := s.launch(s.command(""))
	server.awaitFault()
}

// crashWhileFull submits more than fits, so that one run has to wait for the other.
func crashWhileFull(s *stage) {
	server := s.start("a", faultAt(s.point), "LOCAL_MEMORY_MB=600")
	definition := server.define(s.command("; " + untilExists(s.gate)))
	server.tryRun(definition)
	server.tryRun(definition)
	server.awaitFault()
	s.touch(s.gate)
}

// failFirstAttempt stores a run whose first attempt was failed by its cluster, for a server to find. The local cluster
// never fails an attempt, so a row is written instead, before any worker has seen the run.
func failFirstAttempt(s *stage) {
	server := s.serve("a", onlyWorkers("retry"))
	server.run(server.define(s.command("")))
	server.kill()
	s.exec(`UPDATE task SET status = $1, attempt_count = 1, exit_reason = 'node lost'`, state.StatusNeedsRetry)
}

func crashWhileRequeueing(s *stage) {
	failFirstAttempt(s)
	s.start("a", faultAt(s.point)).awaitFault()
}

// crashWhileDeferring makes the cluster fail to take the run: a file stands where the folder of the runs should be.
func crashWhileDeferring(s *stage) {
	server := s.start("a", faultAt(s.point))
	definition := server.define(s.command(""))
	runs := filepath.Join(s.dataDir("a"), "runs")
	require.NoError(s.t, os.Rename(runs, runs+".away"))
	require.NoError(s.t, os.WriteFile(runs, nil, 0o600))
	server.tryRun(definition)
	server.awaitFault()
	require.NoError(s.t, os.Remove(runs))
	require.NoError(s.t, os.Rename(runs+".away", runs))
}

// launchEndless submits a run that does not end and waits until its process exists.
func launchEndless(s *stage) (server *server, run string) {
	server, run = s.launch(s.command("; sleep 1000"))
	s.awaitRuns(1, state.StatusRunning)
	require.NotEmpty(s.t, s.processes(), "a run that is RUNNING has a process")
	return server, run
}

func crashWhileStopping(s *stage) {
	server, run := launchEndless(s)
	path := "/api/v6/task/" + server.get(run).DefinitionID + "/history/" + run
	_, err := server.call(http.MethodDelete, path, nil, nil)
	require.Error(s.t, err, "the server dies before it answers")
	server.awaitFault()
}

// crashAtDeadline moves the start of a run into the past, so that the server's sweep ends the run. The shim, which
// enforces the deadline by its own clock, does not.
func crashAtDeadline(s *stage) {
	server, _ := launchEndless(s)
	s.exec(`UPDATE task SET started_at = now() - interval '1 hour', active_deadline_seconds = 10`)
	server.awaitFault()
}

// shimCrash submits a run whose shim dies while the server lives.
func shimCrash(s *stage) { shimCrashOf(s, "") }

func shimCrashWithCommand(s *stage) { shimCrashOf(s, "; sleep 1000") }

func shimCrashOf(s *stage, more string) {
	server, _ := s.launch(s.command(more))
	s.awaitRuns(1, state.StatusStopped)
	server.kill()
}

// shimCrashBeforeStart lets shims die until the server has warned of the run.
func shimCrashBeforeStart(s *stage) {
	server, run := s.launch(s.command(""))
	s.await("a warning of the run", func() bool {
		return len(server.output.logged(func(line object) bool { return line["level"] == "WARN" && line["run_id"] == run })) > 0
	})
	server.kill()
}

// recovered starts the program again and waits until every run is STOPPED.
func (s *stage) recovered() (*server, []row) {
	server := s.serve("a")
	return server, s.awaitRuns(1, state.StatusStopped)
}

func executedOnce(s *stage) {
	server, runs := s.recovered()
	var ids []string
	for _, run := range runs {
		ids = append(ids, run.id)
		assert.Equal(s.t, int64(0), run.code.Int64, run)
		assert.True(s.t, run.code.Valid, run)
		log := server.log(run.id)
		assert.Equal(s.t, 1, strings.Count(log, "\nhello from the run\n"), "the log of %s is %q", run.id, log)
	}
	assert.ElementsMatch(s.t, ids, s.lines(s.ran), "each run is executed exactly once")
}

func executedOnSecondAttempt(s *stage) {
	executedOnce(s)
	runs := s.awaitRuns(1, state.StatusStopped)
	assert.Equal(s.t, int64(2), runs[0].attempt.Int64)
}

func stoppedWith(code int64, reason string) func(s *stage) {
	return func(s *stage) {
		_, runs := s.recovered()
		assert.Equal(s.t, code, runs[0].code.Int64)
		assert.Contains(s.t, runs[0].reason.String, reason)
		assert.Len(s.t, s.lines(s.ran), 1)
	}
}

// lost returns the check of a run whose execution was cut off: it is not repeated, its exit code is unknown, and its
// command was executed at most so many times.
func lost(most int) func(s *stage) {
	return func(s *stage) {
		_, runs := s.recovered()
		assert.False(s.t, runs[0].code.Valid, runs[0])
		assert.Contains(s.t, runs[0].reason.String, "lost")
		assert.LessOrEqual(s.t, len(s.lines(s.ran)), most)
	}
}
