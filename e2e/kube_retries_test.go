//go:build kube

package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stitchfix/flotilla-os/state"
)

// againCommand runs for ever at the first attempt and ends at the second.
const againCommand = `case $HOSTNAME in *-2-*) echo second; exit 0;; esac; echo first; sleep 600`

// TestKubeRetries: what the cluster does to a run is made good by another attempt.
func TestKubeRetries(t *testing.T) {
	t.Parallel()
	k := startKube(t, "RETRY_BASE_DELAY=1s")
	pods := k.admin.Client.CoreV1().Pods(k.namespace)
	for name, lose := range map[string]func(t *testing.T, pod corev1.Pod){
		"its pod is evicted": func(t *testing.T, pod corev1.Pod) {
			require.NoError(t, pods.EvictV1(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace}}))
		},
		"its pod is deleted": func(t *testing.T, pod corev1.Pod) {
			require.NoError(t, pods.Delete(t.Context(), pod.Name, metav1.DeleteOptions{}))
		},
		"its pod is deleted by force": func(t *testing.T, pod corev1.Pod) {
			require.NoError(t, pods.Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
		},
		"its Job is deleted": func(t *testing.T, pod corev1.Pod) { k.on(t).deleteJob(pod.Labels["job-name"]) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := k.on(t)
			id := k.run(againCommand)
			k.awaitStatus(id, state.StatusRunning)
			require.Eventually(t, func() bool { return linesOf(k.log(id), "first") == 1 }, kubePatience, kubePoll)
			lose(t, k.pods(id)[0])
			run := k.awaitStopped(id)
			assert.EqualValues(t, 0, codeOf(run), run.ExitReason)
			assert.EqualValues(t, 2, run.Attempts)
			assert.True(t, strings.HasPrefix(run.PodName, id+"-2-"), run.PodName)
			log := k.log(id)
			first, second, both := strings.Cut(log, "--- attempt 2 ---\n")
			assert.True(t, both, log)
			assert.Equal(t, 1, linesOf(first, "first"), log)
			assert.Equal(t, 1, linesOf(second, "second"), log)
			assert.Equal(t, log, k.polled(id))
		})
	}
}

// TestKubeNodeIsDeleted: a node that is taken away takes its pods along. The node is one that only the API server
// knows, so that nobody else's pods are on it.
func TestKubeNodeIsDeleted(t *testing.T) {
	t.Parallel()
	k := startKube(t, "RETRY_BASE_DELAY=1s")
	nodes, pods := k.admin.Client.CoreV1().Nodes(), k.admin.Client.CoreV1().Pods(k.namespace)
	node := "gone-" + k.namespace
	_, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: corev1.NodeSpec{Unschedulable: true}}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := nodes.Delete(context.Background(), node, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	id := k.run("true", object{"cpu": 50_000})
	k.awaits(id, "unschedulable", func(r kubeRun) bool { return strings.Contains(r.StatusReason, "Unschedulable") })
	pod := k.pods(id)[0]
	require.NoError(t, pods.Bind(t.Context(), &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{}))
	_, err = pods.Patch(t.Context(), pod.Name, types.MergePatchType, []byte(`{"status": {"phase": "Running",
		"containerStatuses": [{"name": "`+id+`", "image": "i", "imageID": "i", "ready": true, "restartCount": 0,
		"state": {"running": {"startedAt": "`+time.Now().UTC().Format(time.RFC3339)+`"}}}]}}`), metav1.PatchOptions{}, "status")
	require.NoError(t, err)
	run := k.awaitStatus(id, state.StatusRunning)
	assert.Equal(t, node, run.Instance.DNSName)
	require.NoError(t, nodes.Delete(t.Context(), node, metav1.DeleteOptions{}))
	k.awaits(id, "tried again", func(r kubeRun) bool { return r.Attempts == 2 && strings.Contains(r.StatusReason, "Unschedulable") })
	k.stop(id)
}

// TestKubeRetriesAreUsedUp: a container that never starts is tried as often as configured, and never had a code.
func TestKubeRetriesAreUsedUp(t *testing.T) {
	t.Parallel()
	k := startKube(t, "RETRY_BASE_DELAY=1s", "RETRY_MAX_ATTEMPTS=2", "IMAGE_PULL_DEADLINE=4s")
	id := k.execute(k.defineImage("127.0.0.1:1/none:latest", "true", 512))
	run := k.awaitStopped(id)
	assert.EqualValues(t, 1, codeOf(run))
	assert.EqualValues(t, 2, run.Attempts)
	assert.Contains(t, run.ExitReason, "The container did not start within 4s: ")
	assert.Contains(t, run.ExitReason, "127.0.0.1:1")
	require.Eventually(t, func() bool { return len(k.pods(id)) == 0 }, kubePatience, kubePoll, "its pods are left")
}

// TestKubeLost: a Job that went while nobody watched.
func TestKubeLost(t *testing.T) {
	t.Parallel()
	k := startKube(t, "LOST_AFTER=4s")
	id := k.run("sleep 600")
	k.awaitStatus(id, state.StatusRunning)
	k.kill()
	k.deleteJob(id)
	require.Eventually(t, func() bool { return len(k.pods(id)) == 0 }, kubePatience, kubePoll)
	k.server = k.start("one")
	run := k.awaitStopped(id)
	assert.Nil(t, run.ExitCode)
	assert.Equal(t, state.ReasonLost, run.ExitReason)
}

// TestKubeAdopts: Jobs of the program before us have our label on their pods only.
func TestKubeAdopts(t *testing.T) {
	t.Parallel()
	k := startKube(t)
	id := k.run("sleep 5")
	k.awaitStatus(id, state.StatusRunning)
	k.kill()
	jobs := k.admin.Client.BatchV1().Jobs(k.namespace)
	_, err := jobs.Patch(t.Context(), id, types.MergePatchType, []byte(`{"metadata": {"labels": {"flotilla-run-id": null}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		pods := k.pods(id)
		return len(pods) == 1 && pods[0].Status.Phase == corev1.PodSucceeded
	}, kubePatience, kubePoll)
	pod := k.pods(id)[0]
	require.NoError(t, k.admin.Client.CoreV1().Pods(k.namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{}))
	require.Eventually(t, func() bool { return len(k.pods(id)) == 0 }, kubePatience, kubePoll)
	k.server = k.start("one")
	run := k.awaitStopped(id)
	assert.EqualValues(t, 0, codeOf(run))
	assert.Equal(t, "Job "+id+" Exited Successfully", run.ExitReason)
}
