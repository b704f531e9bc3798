//go:build kube

package e2e

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/clients/kube/kubetest"
	"github.com/stitchfix/flotilla-os/state"
)

// TestKubeEnds: how a run ends is what its command did, or what kept it from being done.
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
		"an image name that is none":   {image: "127.0.0.1:5055/UPPER:latest", code: int64(1), reason: "InvalidImageName"},
		"a service account that cannot be": {
			command: "true", launch: object{"service_account": "Not/One"}, code: int64(1), reason: "serviceAccountName"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := k.on(t)
			image := kubetest.Image()
			if tc.image != "" {
				image = tc.image
			}
			id := k.execute(k.defineImage(image, tc.command, 512), tc.launch)
			run := k.awaitStopped(id)
			assert.Equal(t, tc.code, codeOf(run), run.ExitReason)
			assert.Contains(t, run.ExitReason, tc.reason)
			assert.NotNil(t, run.FinishedAt)
			assert.LessOrEqual(t, run.Attempts, int64(1), "a failure of the user's is never retried")
			assert.LessOrEqual(t, len(k.pods(id)), 1)
		})
	}
}

// TestKubeSurvivedMemoryKillTeachesNothing: a success is no reason to give more.
func TestKubeSurvivedMemoryKillTeachesNothing(t *testing.T) {
	t.Parallel()
	k := startKube(t)
	definition := k.defineImage(kubetest.Image(), "head -c 900M /dev/zero | tail > /dev/null || true", 512)
	for range 2 {
		run := k.awaitStopped(k.execute(definition))
		require.EqualValues(t, 0, codeOf(run), run.ExitReason)
		require.Contains(t, run.ExitReason, "OOMKilled")
		assert.EqualValues(t, 512, run.Memory)
	}
}

// TestKubeStop: a stopped run is STOPPED at once, and soon the cluster has nothing of it.
func TestKubeStop(t *testing.T) {
	t.Parallel()
	k := startKube(t)
	stop := func(k *kubeServer, id string) {
		k.stop(id)
		run := k.get(id)
		assert.Equal(k.t, state.StatusStopped, run.Status)
		assert.EqualValues(k.t, 1, codeOf(run))
		assert.Contains(k.t, run.ExitReason, state.ReasonTerminated)
	}
	nothingLeft := func(k *kubeServer, id string) {
		require.Eventually(k.t, func() bool {
			jobs, err := k.admin.Client.BatchV1().Jobs(k.namespace).List(k.t.Context(), metav1.ListOptions{LabelSelector: "flotilla-run-id=" + id})
			return err == nil && len(jobs.Items) == 0 && len(k.pods(id)) == 0
		}, kubePatience, kubePoll, "something is left of the run")
		run := k.get(id)
		assert.EqualValues(k.t, 1, codeOf(run), "what the cluster says later changes nothing")
		assert.Contains(k.t, run.ExitReason, state.ReasonTerminated)
	}
	t.Run("while it waits for a node", func(t *testing.T) {
		t.Parallel()
		k := k.on(t)
		id := k.run("true", object{"cpu": 50_000})
		k.awaits(id, "unschedulable", func(r kubeRun) bool { return strings.Contains(r.StatusReason, "Unschedulable") })
		stop(k, id)
		nothingLeft(k, id)
	})
	t.Run("while it runs, and again", func(t *testing.T) {
		t.Parallel()
		k := k.on(t)
		id := k.run("trap 'echo last words; exit 7' TERM; echo begun; sleep 600 & wait")
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
		id := k.run("exit 3")
		k.awaitStopped(id)
		k.stop(id)
		assert.EqualValues(t, 3, codeOf(k.get(id)))
	})
}

// TestKubeTroubledClusters: a cluster that takes no runs says why, and keeps nobody else waiting.
func TestKubeTroubledClusters(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.addKubeconfig("unreachable", "https://127.0.0.1:1", k.token)
	k.addKubeconfig("forbidden", k.api.url(), k.powerlessToken())
	k.server = k.serve("one", "EKS_CLUSTERS="+mainCluster+",unreachable,forbidden,unconfigured")

	waiting := map[string]string{}
	for _, cluster := range []string{"unreachable", "forbidden", "unconfigured"} {
		waiting[cluster] = k.run("true", object{"cluster": cluster})
	}
	good := k.run("true")
	assert.EqualValues(t, 0, codeOf(k.awaitStopped(good)), "a run elsewhere is not affected")
	for cluster, reason := range map[string]string{
		"unreachable": "connection refused", "forbidden": "cannot create resource", "unconfigured": "There is no configuration",
	} {
		k.awaits(waiting[cluster], "explained", func(r kubeRun) bool {
			return r.Status == state.StatusQueued && strings.Contains(r.StatusReason, reason)
		})
	}
	// Two of the clusters come to life.
	for _, cluster := range []string{"unconfigured", "unreachable"} {
		k.addKubeconfig(cluster, k.api.url(), k.token)
	}
	for _, cluster := range []string{"unconfigured", "unreachable"} {
		assert.EqualValues(t, 0, codeOf(k.awaitStopped(waiting[cluster])), cluster)
	}
}

// powerlessToken is that of an account without any right.
func (k *kubeServer) powerlessToken() string {
	k.t.Helper()
	made, err := k.admin.Client.CoreV1().ServiceAccounts(k.namespace).CreateToken(context.Background(), "default",
		&authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	require.NoError(k.t, err)
	return made.Status.Token
}
