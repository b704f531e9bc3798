//go:build kube

package e2e

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/state"
)

// kubeCrash tests one crash point of a server whose runs are Jobs.
type kubeCrash struct {
	command string
	// before brings the server to the point after the run was submitted, if more is needed.
	before func(s *kubeSite, server *server, run string)
	// found checks what the next server finds.
	found func(t *testing.T, s *kubeSite, r row)
	// code is the exit code of the run.
	code int64
}

const hello = "echo hello from the run"

// TestKubeServerKilled kills a server at every point of a run's way through a cluster and lets another one take the run
// to its end. There is always one Job with one pod.
func TestKubeServerKilled(t *testing.T) {
	t.Parallel()
	for point, c := range kubeCrashes() {
		t.Run(string(point), func(t *testing.T) {
			t.Parallel()
			s := newKubeSite(t)
			server := s.serve("a", faultAt(point))
			run := server.tryRun(server.define(c.command))
			if c.before != nil {
				c.before(s, server, run)
			}
			server.awaitFault()
			all, err := s.rows(t.Context())
			require.NoError(t, err)
			require.Len(t, all, 1)
			c.found(t, s, all[0])
			again := s.serve("a")
			id := all[0].id
			ended := again.awaitStopped(id)
			assert.Equal(t, c.code, ended.code(), ended.ExitReason)
			s.awaitNoPods()
			assert.LessOrEqual(t, ended.Attempts, int64(1))
			log := again.log(id)
			assert.Equal(t, 1, hellos(log), "its log is %q", log)
			s.seen.onceEach(t, id)
		})
	}
}

func kubeCrashes() map[fault.Name]kubeCrash {
	return map[fault.Name]kubeCrash{
		fault.ClaimCommitted:    {command: hello, found: withoutJob(state.StatusQueued), code: 0},
		fault.ExecutePrepared:   {command: hello, found: withoutJob(state.StatusQueued), code: 0},
		fault.JobCreated:        {command: hello, found: withJob(state.StatusQueued), code: 0},
		fault.PendingCommitted:  {command: hello + "; exit 3", found: withJob(state.StatusPending), code: 3},
		fault.RunningCommitted:  {command: hello + "; sleep 5; exit 2", found: withJob(state.StatusRunning), code: 2},
		fault.ExitSeen:          {command: hello, found: withJob(""), code: 0},
		fault.StoppedCommitted:  {command: hello + "; exit 1", found: withJob(state.StatusStopped), code: 1},
		fault.StopCommitted:     {hello + "; sleep 1000", stopByUser, withJob(state.StatusStopped), 1},
		fault.DeadlineCommitted: {hello + "; sleep 1000", passDeadline, withJob(state.StatusStopped), state.ExitCodeDeadline},
	}
}

func withoutJob(status state.Status) func(*testing.T, *kubeSite, row) {
	return func(t *testing.T, s *kubeSite, r row) {
		assert.Equal(t, string(status), r.status)
		assert.Zero(t, s.seen.created())
	}
}

// withJob checks that the Job exists and that the row has the status, if one is given.
func withJob(status state.Status) func(*testing.T, *kubeSite, row) {
	return func(t *testing.T, s *kubeSite, r row) {
		if status != "" {
			assert.Equal(t, string(status), r.status)
		}
		_, err := s.admin.Client.BatchV1().Jobs(s.namespace).Get(t.Context(), r.id, metav1.GetOptions{})
		assert.NoError(t, err)
	}
}

// awaitHello waits until the run is RUNNING and its log has begun.
func awaitHello(server *server, run string) {
	server.awaitStatus(run, state.StatusRunning)
	server.in.await("the log to begin", func() bool { return hellos(server.log(run)) == 1 })
}

// hellos returns how often the command of hello was executed according to the log.
func hellos(log string) int { return linesOf(log, "hello from the run") }

func stopByUser(s *kubeSite, server *server, run string) {
	awaitHello(server, run)
	_, err := server.call(http.MethodDelete, "/api/v6/task/"+server.get(run).DefinitionID+"/history/"+run, nil, nil)
	require.Error(s.t, err, "the server dies before it answers")
}

// passDeadline makes the server's sweep end the run. The cluster does not, because its Job has a later deadline.
func passDeadline(s *kubeSite, server *server, run string) {
	awaitHello(server, run)
	s.exec(`UPDATE task SET started_at = now() - interval '1 hour', active_deadline_seconds = 10`)
}

// TestKubeServerKilledWhileAHundredJobsRun kills servers while they submit, and while the Jobs run and end.
func TestKubeServerKilledWhileAHundredJobsRun(t *testing.T) {
	const runs = 100
	s := newKubeSite(t)
	server := s.serve("a")
	definition := server.define("true")
	codes := map[string]int64{}
	for i := range runs {
		code := int64(i % 3)
		codes[server.run(definition, object{"command": fmt.Sprintf("sleep 1; exit %d", code)})] = code
		if i == runs/2 { // some runs are claimed, some have their Job, some are RUNNING
			server.kill()
			server = s.serve("a")
		}
	}
	s.await("all Jobs to be created", func() bool { return s.seen.created() >= runs })
	server.kill()
	before := s.seen.over()
	require.Less(t, before, runs, "some Jobs have not ended when the server is killed")
	s.await("Jobs to end without a server", func() bool { return s.seen.over() >= min(before+10, runs) })
	server = s.serve("a")
	s.await("more Jobs to end", func() bool { return s.seen.over() >= min(before+20, runs) })
	server.kill()
	s.serve("b")
	ids := make([]string, 0, runs)
	for _, r := range s.awaitRuns(runs, state.StatusStopped) {
		ids = append(ids, r.id)
		assert.True(t, r.code.Valid, "%v", r)
		assert.Equal(t, codes[r.id], r.code.Int64, "%v", r)
		assert.LessOrEqual(t, r.attempt.Int64, int64(1), "%v", r)
	}
	s.seen.onceEach(t, ids...)
}

// lostSoon makes servers take a run as lost 20 s after its Job was last seen.
const lostSoon = "LOST_AFTER=20s"

// secondAttempt is a command that ends at the second attempt only. The name of a pod is that of its Job, a hyphen and
// five characters.
const secondAttempt = `case $HOSTNAME in *-2-?????) echo again;; *) sleep 1000;; esac`

// TestKubeJobsDeletedByHand deletes Jobs before, during and after their runs, and while no server runs.
func TestKubeJobsDeletedByHand(t *testing.T) {
	t.Parallel()
	s := newKubeSite(t, lostSoon)
	server := s.serve("a")
	definition := server.define(secondAttempt)

	waiting := server.run(definition, object{"cpu": 1_000_000}) // no node has that
	running := server.run(definition)
	ended := server.run(definition, object{"command": hello + "; exit 4"})
	unseen := server.run(definition)
	// Ends with a code of its own when its Job is deleted, while no server watches.
	unseenEnd := server.run(definition, object{"command": "trap 'exit 5' TERM; " + hello + "; sleep 100000 & wait"})
	server.awaitStatus(waiting, state.StatusPending)
	server.awaitStatus(running, state.StatusRunning)
	server.awaitStatus(unseen, state.StatusRunning)
	awaitHello(server, unseenEnd)
	server.awaitStopped(ended)
	s.awaitRecorded(ended)

	s.deleteJob(waiting)
	s.deleteJob(running)
	s.deleteJob(ended)
	repeated := server.awaitStopped(running)
	assert.Equal(t, int64(0), repeated.code())
	assert.Equal(t, int64(2), repeated.Attempts)
	assert.Contains(t, server.log(running), "again")
	server.awaitRun(waiting, "PENDING again", func(r shownRun) bool { return r.Status == state.StatusPending && r.Attempts == 2 })
	// A run that no node can take stays PENDING until its user stops it.
	server.terminate(waiting)

	server.kill()
	s.deleteJob(unseen)
	s.deleteJob(unseenEnd)
	s.await("the pods to be gone", func() bool {
		pods, err := s.admin.Client.CoreV1().Pods(s.namespace).List(t.Context(),
			metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + " in (" + unseen + ", " + unseenEnd + ")"})
		return err == nil && len(pods.Items) == 0
	})
	server = s.serve("a")
	for _, id := range []string{unseen, unseenEnd} {
		lost := server.awaitStopped(id)
		assert.Nil(t, lost.ExitCode, "%+v", lost)
		assert.Equal(t, "Job either timed out or not found on the EKS cluster.", lost.ExitReason)
	}
	assert.Equal(t, int64(4), server.awaitStopped(ended).code())
	assert.Contains(t, server.log(ended), "hello from the run")
	s.seen.onceEach(t, waiting, waiting+"-2", running, running+"-2", ended, unseen, unseenEnd)
}
