//go:build kube

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/state"
)

// kubeCrash is what is true at a crash point of a server whose runs are Jobs, and how the run ends.
type kubeCrash struct {
	// command of the run.
	command string
	// before does what it takes to get to the point, after the run was launched.
	before func(s *kubeSite, server *server, definition, run string)
	// found is what the next server finds.
	found func(t *testing.T, s *kubeSite, r row)
	// ends is how the run ends.
	ends func(t *testing.T, s *kubeSite, r row)
}

const hello = "echo hello from the run"

// TestKubeServerKilled has a server die at every point of a run's way through a cluster, and another one take the run
// to its end. Whatever happens there is one Job with one pod.
func TestKubeServerKilled(t *testing.T) {
	t.Parallel()
	for point, c := range kubeCrashes() {
		t.Run(string(point), func(t *testing.T) {
			t.Parallel()
			s := newKubeSite(t)
			server := s.serve("a", faultAt(point))
			definition := s.define(server, c.command)
			run := server.launch(definition)
			if c.before != nil {
				c.before(s, server, definition, run)
			}
			server.awaitFault()
			all, err := s.rows(t.Context())
			require.NoError(t, err)
			require.Len(t, all, 1)
			c.found(t, s, all[0])
			again := s.serve("a")
			ended := s.awaitStatus(all[0].id, state.StatusStopped)
			c.ends(t, s, ended)
			s.awaitNoPods()
			assert.LessOrEqual(t, ended.attempt.Int64, int64(1))
			log := s.logOf(again, ended.id)
			assert.Equal(t, 1, hellos(log), "its log is %q", log)
			s.seen.onceEach(t, ended.id)
		})
	}
}

func kubeCrashes() map[fault.Name]kubeCrash {
	return map[fault.Name]kubeCrash{
		fault.ClaimCommitted:    {command: hello, found: withoutJob(state.StatusQueued), ends: endedWith(0)},
		fault.ExecutePrepared:   {command: hello, found: withoutJob(state.StatusQueued), ends: endedWith(0)},
		fault.JobCreated:        {command: hello, found: withJob(state.StatusQueued), ends: endedWith(0)},
		fault.PendingCommitted:  {command: hello + "; exit 3", found: withJob(state.StatusPending), ends: endedWith(3)},
		fault.RunningCommitted:  {command: hello + "; sleep 5; exit 2", found: withJob(state.StatusRunning), ends: endedWith(2)},
		fault.ExitSeen:          {command: hello, found: withJob(""), ends: endedWith(0)},
		fault.StoppedCommitted:  {command: hello + "; exit 1", found: withJob(state.StatusStopped), ends: endedWith(1)},
		fault.StopCommitted:     {hello + "; sleep 1000", stopByUser, withJob(state.StatusStopped), endedWith(1)},
		fault.DeadlineCommitted: {hello + "; sleep 1000", passDeadline, withJob(state.StatusStopped), endedWith(state.ExitCodeDeadline)},
	}
}

func withoutJob(status state.Status) func(*testing.T, *kubeSite, row) {
	return func(t *testing.T, s *kubeSite, r row) {
		assert.Equal(t, string(status), r.status)
		assert.Zero(t, s.seen.created())
	}
}

// withJob takes any status where none is given.
func withJob(status state.Status) func(*testing.T, *kubeSite, row) {
	return func(t *testing.T, s *kubeSite, r row) {
		if status != "" {
			assert.Equal(t, string(status), r.status)
		}
		_, err := s.admin.Client.BatchV1().Jobs(s.namespace).Get(t.Context(), r.id, metav1.GetOptions{})
		assert.NoError(t, err)
	}
}

func endedWith(code int64) func(*testing.T, *kubeSite, row) {
	return func(t *testing.T, _ *kubeSite, r row) {
		assert.True(t, r.code.Valid, "%v", r)
		assert.Equal(t, code, r.code.Int64, "%v", r)
	}
}

// awaitHello waits until the command runs and its log has begun.
func awaitHello(s *kubeSite, server *server, run string) {
	s.awaitStatus(run, state.StatusRunning)
	require.Eventually(s.t, func() bool { return hellos(s.logOf(server, run)) == 1 }, kubePatience, 200*time.Millisecond)
}

// hellos is how often the command of hello was executed, as its log says.
func hellos(log string) int { return linesOf(log, "hello from the run") }

// linesOf counts the lines of a log that are this one. A pod's two streams, of which one traces the commands, reach its
// log in any order.
func linesOf(log, wanted string) (n int) {
	for line := range strings.Lines(log) {
		if strings.TrimSuffix(line, "\n") == wanted {
			n++
		}
	}
	return n
}

func stopByUser(s *kubeSite, server *server, definition, run string) {
	awaitHello(s, server, run)
	ctx, cancel := context.WithTimeout(s.t.Context(), recovery)
	defer cancel()
	_, err := call(ctx, http.MethodDelete, server.url+"/api/v6/task/"+definition+"/history/"+run, nil, nil)
	require.Error(s.t, err, "the server dies before it answers")
}

// passDeadline has our sweep act, and not the cluster, which knows of no deadline as short as this.
func passDeadline(s *kubeSite, server *server, _, run string) {
	awaitHello(s, server, run)
	s.exec(`UPDATE task SET started_at = now() - interval '1 hour', active_deadline_seconds = 10`)
}

// TestKubeServerKilledWhileAHundredJobsRun kills servers while they submit, and while the Jobs run and end.
func TestKubeServerKilledWhileAHundredJobsRun(t *testing.T) {
	const runs = 100
	s := newKubeSite(t)
	server := s.serve("a")
	definition := s.define(server, "true")
	codes := map[string]int64{}
	for i := range runs {
		code := int64(i % 3)
		codes[s.run(server, definition, object{"command": fmt.Sprintf("sleep 1; exit %d", code)})] = code
		if i == runs/2 { // some are claimed, some have their Job, some run
			server.kill()
			server = s.serve("a")
		}
	}
	s.await("all Jobs created", func() bool { return s.seen.created() >= runs })
	server.kill()
	before := s.seen.over()
	require.Less(t, before, runs, "Jobs go on while the server is away")
	s.await("Jobs ended unobserved", func() bool { return s.seen.over() >= min(before+10, runs) })
	server = s.serve("a")
	s.await("more Jobs ended", func() bool { return s.seen.over() >= min(before+20, runs) })
	server.kill()
	s.serve("b")
	ids := make([]string, 0, runs)
	for _, r := range s.awaitRuns(runs, string(state.StatusStopped), 2*kubePatience) {
		ids = append(ids, r.id)
		assert.True(t, r.code.Valid, "%v", r)
		assert.Equal(t, codes[r.id], r.code.Int64, "%v", r)
		assert.LessOrEqual(t, r.attempt.Int64, int64(1), "%v", r)
	}
	s.seen.onceEach(t, ids...)
}

// secondAttempt is a command that ends only as the second attempt: its pod is named like the Job and five characters.
const secondAttempt = `case $HOSTNAME in *-2-?????) echo again;; *) sleep 1000;; esac`

// TestKubeJobsDeletedByHand deletes Jobs before, while and after their runs run, and while no server is there to see it.
func TestKubeJobsDeletedByHand(t *testing.T) {
	t.Parallel()
	const lostAfter = 5 * time.Second
	s := newKubeSite(t, "LOST_AFTER="+lostAfter.String())
	server := s.serve("a")
	definition := s.define(server, secondAttempt)

	waiting := s.run(server, definition, object{"cpu": 1_000_000}) // no node has that
	running := s.run(server, definition, nil)
	ended := s.run(server, definition, object{"command": hello + "; exit 4"})
	unseen := s.run(server, definition, nil)
	unseenEnd := s.run(server, definition, object{"command": hello + "; sleep 10; exit 5"})
	s.awaitStatus(waiting, state.StatusPending)
	s.awaitStatus(running, state.StatusRunning)
	s.awaitStatus(unseen, state.StatusRunning)
	awaitHello(s, server, unseenEnd)
	s.awaitStatus(ended, state.StatusStopped)
	s.awaitArchived(ended)

	s.deleteJob(waiting)
	s.deleteJob(running)
	s.deleteJob(ended)
	repeated := s.awaitStatus(running, state.StatusStopped)
	assert.Equal(t, int64(0), repeated.code.Int64)
	assert.Equal(t, int64(2), repeated.attempt.Int64)
	assert.Contains(t, s.logOf(server, running), "again")
	s.awaitRow(waiting, "waiting again", func(r row) bool {
		return r.status == string(state.StatusPending) && r.attempt.Int64 == 2
	})
	// A waiting run that nobody can place is its user's to stop.
	server.mustCall(http.MethodDelete, "/task/"+definition+"/history/"+waiting, nil, nil)

	server.kill()
	s.deleteJob(unseen)
	s.deleteJob(unseenEnd)
	s.await("no trace of them", func() bool {
		pods, err := s.admin.Client.CoreV1().Pods(s.namespace).List(t.Context(),
			metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + " in (" + unseen + ", " + unseenEnd + ")"})
		return err == nil && len(pods.Items) == 0
	})
	server = s.serve("a")
	for _, id := range []string{unseen, unseenEnd} {
		lost := s.awaitStatus(id, state.StatusStopped)
		assert.False(t, lost.code.Valid, "%v", lost)
		assert.Equal(t, "Job either timed out or not found on the EKS cluster.", lost.reason.String)
	}
	untouched := s.awaitStatus(ended, state.StatusStopped)
	assert.Equal(t, int64(4), untouched.code.Int64)
	assert.Contains(t, s.logOf(server, ended), "hello from the run")
	s.seen.onceEach(t, waiting, waiting+"-2", running, running+"-2", ended, unseen, unseenEnd)
}
