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

// againCommand ends at the second attempt only and writes the number of the attempt.
const againCommand = `case $HOSTNAME in *-2-*) echo second; exit 0;; esac; echo first; sleep 600`

// TestKubeRetries checks that a run gets another attempt if the cluster ends its pod.
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
			id := k.execute(againCommand)
			k.awaitStatus(id, state.StatusRunning)
			k.await("the first line of the log", func() bool { return linesOf(k.log(id), "first") == 1 })
			lose(t, k.pods(id)[0])
			run := k.awaitStopped(id)
			assert.EqualValues(t, 0, run.code(), run.ExitReason)
			assert.EqualValues(t, 2, run.Attempts)
			assert.True(t, strings.HasPrefix(run.PodName, id+"-2-"), run.PodName)
			log := k.log(id)
			first, second, both := strings.Cut(log, "--- attempt 2 ---\n")
			assert.True(t, both, log)
			assert.Equal(t, 1, linesOf(first, "first"), log)
			assert.Equal(t, 1, linesOf(second, "second"), log)
			assert.Equal(t, log, k.pagedLog(id))
		})
	}
}

// TestKubeNodeIsDeleted checks that a run gets another attempt if its node is deleted. The node is an object without a
// machine, so that no other test's pods are on it.
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
	id := k.execute("true", object{"cpu": 50_000})
	k.awaitUnschedulable(id)
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
	k.awaitRun(id, "unschedulable at the second attempt", func(r shownRun) bool { return r.Attempts == 2 && strings.Contains(r.StatusReason, "Unschedulable") })
	k.terminate(id)
}

// TestKubeRetriesAreUsedUp checks that a container that never starts gets as many attempts as configured.
func TestKubeRetriesAreUsedUp(t *testing.T) {
	t.Parallel()
	k := startKube(t, "RETRY_BASE_DELAY=1s", "RETRY_MAX_ATTEMPTS=2", "IMAGE_PULL_DEADLINE=4s")
	id := k.run(k.define("true", object{"image": "127.0.0.1:1/none:latest"}))
	run := k.awaitStopped(id)
	assert.EqualValues(t, 1, run.code())
	assert.EqualValues(t, 2, run.Attempts)
	assert.Contains(t, run.ExitReason, "The container did not start within 4s: ")
	assert.Contains(t, run.ExitReason, "127.0.0.1:1")
	k.awaitNoPodsOf(id)
}

// TestKubeLost checks the end of a run whose Job was deleted while no server ran.
func TestKubeLost(t *testing.T) {
	t.Parallel()
	k := startKube(t, lostSoon)
	id := k.execute("sleep 600")
	k.awaitStatus(id, state.StatusRunning)
	k.kill()
	k.deleteJob(id)
	k.awaitNoPodsOf(id)
	k.server = k.serve("one")
	run := k.awaitStopped(id)
	assert.Nil(t, run.ExitCode)
	assert.Equal(t, state.ReasonLost, run.ExitReason)
}

// TestKubeAdopts checks that Jobs of the old program, which has the run's label on pods only, are followed.
func TestKubeAdopts(t *testing.T) {
	t.Parallel()
	k := startKube(t)
	id := k.execute("sleep 5")
	k.awaitStatus(id, state.StatusRunning)
	k.kill()
	jobs := k.admin.Client.BatchV1().Jobs(k.namespace)
	_, err := jobs.Patch(t.Context(), id, types.MergePatchType, []byte(`{"metadata": {"labels": {"flotilla-run-id": null}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	k.await("the pod to succeed", func() bool {
		pods := k.pods(id)
		return len(pods) == 1 && pods[0].Status.Phase == corev1.PodSucceeded
	})
	pod := k.pods(id)[0]
	require.NoError(t, k.admin.Client.CoreV1().Pods(k.namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{}))
	k.awaitNoPodsOf(id)
	k.server = k.serve("one")
	run := k.awaitStopped(id)
	assert.EqualValues(t, 0, run.code())
	assert.Equal(t, "Job "+id+" Exited Successfully", run.ExitReason)
}
