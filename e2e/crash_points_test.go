package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/state"
)

// stage is where one crash happens.
type stage struct {
	*installation
	t     *testing.T
	point fault.Name
	// ran gets a line from each execution of a command.
	ran string
}

// crashCase is one row of docs/crash-points.md: how the program gets to the
// point, and what must hold in the end.
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
		fault.NeedsRetryCommitted:  {crashAfterFailure, executedOnSecondAttempt},
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
			s := &stage{installation: in, t: t, point: point, ran: in.marker("ran")}
			c.crash(s)
			c.ends(s)
			if !assert.Eventually(t, func() bool { return len(in.processes()) == 0 }, recovery, 20*time.Millisecond) {
				t.Errorf("processes are left: %v", in.processes())
			}
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

// The marker grows by one line per execution; the log has a line of its own.
func (s *stage) command(more string) string {
	return fmt.Sprintf("echo $FLOTILLA_RUN_ID >> %s; echo hello from the run%s", s.ran, more)
}

// crashWhileRunning launches one run; the server dies on its way.
func crashWhileRunning(s *stage) {
	server := s.start("a", faultAt(s.point))
	server.launch(server.define(s.command("")))
	server.awaitFault()
}

// crashWhileFull launches more than fits, so that one has to wait.
func crashWhileFull(s *stage) {
	server := s.start("a", faultAt(s.point), "LOCAL_MEMORY_MB=600")
	definition := server.define(s.command("; sleep 1"))
	server.launch(definition)
	server.launch(definition)
	server.awaitFault()
}

// queueUntouched stores a run that no worker has seen yet.
func queueUntouched(s *stage) {
	server := s.start("a", "WORKER_TYPES=retry")
	require.NotEmpty(s.t, server.launch(server.define(s.command(""))))
	server.kill()
}

// failFirstAttempt writes what is committed when a cluster fails an attempt.
// The local cluster never does, so no server of this test dies there.
func failFirstAttempt(s *stage) {
	queueUntouched(s)
	s.exec(`UPDATE task SET status = $1, attempt_count = 1, exit_reason = 'node lost'`, state.StatusNeedsRetry)
}

func crashAfterFailure(s *stage) { failFirstAttempt(s) }

func crashWhileRequeueing(s *stage) {
	failFirstAttempt(s)
	s.start("a", faultAt(s.point)).awaitFault()
}

// crashWhileDeferring lets the cluster fail to take the run: the folder of the
// runs is a file.
func crashWhileDeferring(s *stage) {
	server := s.start("a", faultAt(s.point))
	definition := server.define(s.command(""))
	runs := filepath.Join(s.dataDir("a"), "runs")
	require.NoError(s.t, os.Rename(runs, runs+".away"))
	require.NoError(s.t, os.WriteFile(runs, nil, 0o600))
	server.launch(definition)
	server.awaitFault()
	require.NoError(s.t, os.Remove(runs))
	require.NoError(s.t, os.Rename(runs+".away", runs))
}

// runForEver launches a run that does not end by itself.
func runForEver(s *stage) (server *server, definition, run string) {
	server = s.start("a", faultAt(s.point))
	definition = server.define(s.command("; sleep 1000"))
	run = server.launch(definition)
	s.awaitRuns(1, string(state.StatusRunning), recovery)
	require.NotEmpty(s.t, s.processes(), "a run that is RUNNING has a process")
	return server, definition, run
}

func crashWhileStopping(s *stage) {
	server, definition, run := runForEver(s)
	ctx, cancel := context.WithTimeout(s.t.Context(), recovery)
	defer cancel()
	_, err := call(ctx, http.MethodDelete, server.url+"/api/v6/task/"+definition+"/history/"+run, nil, nil)
	require.Error(s.t, err, "the server dies before it answers")
	server.awaitFault()
}

// crashAtDeadline moves the start of a run into the past, so that our sweep
// acts and not the shim, which enforces the deadline by its own clock.
func crashAtDeadline(s *stage) {
	server, _, _ := runForEver(s)
	s.exec(`UPDATE task SET started_at = now() - interval '1 hour', active_deadline_seconds = 10`)
	server.awaitFault()
}

// shimCrash launches a run whose shim dies; the server lives.
func shimCrash(s *stage) {
	server := s.start("a", faultAt(s.point))
	server.launch(server.define(s.command("")))
	s.awaitRuns(1, string(state.StatusStopped), recovery)
	server.kill()
}

func shimCrashWithCommand(s *stage) {
	server := s.start("a", faultAt(s.point))
	server.launch(server.define(s.command("; sleep 1000")))
	s.awaitRuns(1, string(state.StatusStopped), recovery)
	server.kill()
}

// shimCrashBeforeStart lets shims die until the server has noticed.
func shimCrashBeforeStart(s *stage) {
	server := s.start("a", faultAt(s.point))
	server.launch(server.define(s.command("")))
	noticed := server.log.await(server.exited, "executing a run met a difficulty; trying again", recovery)
	require.NotNil(s.t, noticed)
	server.kill()
}

// recovered starts the program again and waits until every run is STOPPED.
func (s *stage) recovered() (*server, []row) {
	server := s.start("a")
	require.NotEmpty(s.t, server.url, "the server does not start again:\n%s", server.log)
	return server, s.awaitRuns(1, string(state.StatusStopped), recovery)
}

func executedOnce(s *stage) {
	server, runs := s.recovered()
	var ids []string
	for _, run := range runs {
		ids = append(ids, run.id)
		assert.Equal(s.t, int64(0), run.code.Int64, run)
		assert.True(s.t, run.code.Valid, run)
		var log string
		server.mustCall(http.MethodGet, "/"+run.id+"/logs?raw_text=true", nil, &log)
		assert.Equal(s.t, 1, strings.Count(log, "\nhello from the run\n"), "the log of %s is %q", run.id, log)
	}
	ran := s.lines(s.ran)
	slices.Sort(ids)
	slices.Sort(ran)
	assert.Equal(s.t, ids, ran, "each run was executed exactly once")
}

func executedOnSecondAttempt(s *stage) {
	executedOnce(s)
	runs := s.awaitRuns(1, string(state.StatusStopped), recovery)
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

// lost ends a run whose execution was cut off: it is not repeated, and what
// its code would have been is not known.
func lost(most int) func(s *stage) {
	return func(s *stage) {
		_, runs := s.recovered()
		assert.False(s.t, runs[0].code.Valid, runs[0])
		assert.Contains(s.t, runs[0].reason.String, "lost")
		assert.LessOrEqual(s.t, len(s.lines(s.ran)), most)
	}
}
