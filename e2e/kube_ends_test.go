//go:build kube

package e2e

import (
	"cmp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/clients/kube/kubetest"
	"github.com/stitchfix/flotilla-os/state"
)

// TestKubeEnds checks exit codes and reasons of runs whose command ended, and of runs whose command could not start.
func TestKubeEnds(t *testing.T) {
	t.Parallel()
	k := startKube(t)
	for name, tc := range map[string]struct {
		command string
		image   string
		launch  object
		code    any
		reason  string
	}{
		"success":       {command: "true", code: int64(0), reason: "Exited Successfully"},
		"no command":    {code: int64(0), reason: "Exited Successfully"},
		"code 1":        {command: "exit 1", code: int64(1), reason: "Error"},
		"code 2":        {command: "exit 2", code: int64(2), reason: "Error"},
		"its own 137":   {command: "exit 137", code: int64(137), reason: "Error"},
		"its own 143":   {command: "exit 143", code: int64(143), reason: "Error"},
		"past deadline": {command: "sleep 600", launch: object{"active_deadline_seconds": 3}, code: int64(124), reason: "DeadlineExceeded"},
		"a child killed for memory": {
			command: "head -c 900M /dev/zero | tail > /dev/null || true", code: int64(0), reason: "; a child process was OOMKilled"},
		"an image that does not exist": {image: "127.0.0.1:5055/no-such-image:latest", code: int64(1), reason: "code = NotFound"},
		"a malformed image name":       {image: "127.0.0.1:5055/UPPER:latest", code: int64(1), reason: "InvalidImageName"},
		"a malformed service account": {
			command: "true", launch: object{"service_account": "Not/One"}, code: int64(1), reason: "serviceAccountName"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := k.on(t)
			id := k.run(k.define(tc.command, object{"image": cmp.Or(tc.image, kubetest.Image()), "memory": 512}), tc.launch)
			run := k.awaitStopped(id)
			assert.Equal(t, tc.code, run.code(), run.ExitReason)
			assert.Contains(t, run.ExitReason, tc.reason)
			assert.NotNil(t, run.FinishedAt)
			assert.LessOrEqual(t, run.Attempts, int64(1), "a user's failure is never retried")
			assert.LessOrEqual(t, len(k.pods(id)), 1)
		})
	}
}

// TestKubeSurvivedMemoryKillIsNoHistory checks that a success with a killed child does not increase the memory.
func TestKubeSurvivedMemoryKillIsNoHistory(t *testing.T) {
	t.Parallel()
	k := startKube(t)
	definition := k.define("head -c 900M /dev/zero | tail > /dev/null || true", object{"memory": 512})
	for range 2 {
		run := k.awaitStopped(k.run(definition))
		require.EqualValues(t, 0, run.code(), run.ExitReason)
		require.Contains(t, run.ExitReason, "OOMKilled")
		assert.EqualValues(t, 512, run.Memory)
	}
}

// TestKubeStop checks that a stopped run is STOPPED at once and that its Job and pods are removed.
func TestKubeStop(t *testing.T) {
	t.Parallel()
	k := startKube(t)
	stop := func(k *kubeServer, id string) {
		k.terminate(id)
		run := k.get(id)
		assert.Equal(k.t, state.StatusStopped, run.Status)
		assert.EqualValues(k.t, 1, run.code())
		assert.Contains(k.t, run.ExitReason, state.ReasonTerminated)
	}
	nothingLeft := func(k *kubeServer, id string) {
		k.await("Job and pods to be removed", func() bool {
			jobs, err := k.admin.Client.BatchV1().Jobs(k.namespace).List(k.t.Context(), metav1.ListOptions{LabelSelector: "flotilla-run-id=" + id})
			return err == nil && len(jobs.Items) == 0 && len(k.pods(id)) == 0
		})
		run := k.get(id)
		assert.EqualValues(k.t, 1, run.code(), "later events of the cluster change nothing")
		assert.Contains(k.t, run.ExitReason, state.ReasonTerminated)
	}
	t.Run("while it waits for a node", func(t *testing.T) {
		t.Parallel()
		k := k.on(t)
		id := k.execute("true", object{"cpu": 50_000})
		k.awaitUnschedulable(id)
		stop(k, id)
		nothingLeft(k, id)
	})
	t.Run("while it runs, and again", func(t *testing.T) {
		t.Parallel()
		k := k.on(t)
		id := k.execute("trap 'echo last words; exit 7' TERM; echo begun; sleep 600 & wait")
		k.awaitStatus(id, state.StatusRunning)
		stop(k, id)
		stop(k, id)
		nothingLeft(k, id)
		assert.Equal(t, 1, linesOf(k.log(id), "begun"), k.log(id))
		assert.Equal(t, 1, linesOf(k.log(id), "last words"), k.log(id))
	})
	t.Run("when it has ended", func(t *testing.T) {
		t.Parallel()
		k := k.on(t)
		id := k.execute("exit 3")
		k.awaitStopped(id)
		k.terminate(id)
		assert.EqualValues(t, 3, k.get(id).code())
	})
}
