//go:build kube

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/state"
)

// TestKubeLog: a run's log is there while it runs, after its end, and after its pod is gone.
func TestKubeLog(t *testing.T) {
	t.Parallel()
	k := startKube(t)
	id := k.run("echo begun; sleep 6; echo over >&2; printf 'no end'")
	k.awaitStatus(id, state.StatusRunning)
	require.Eventually(t, func() bool { return strings.Contains(k.log(id), "begun\n") }, kubePatience, kubePoll, "no log while it runs")
	require.Equal(t, state.StatusRunning, k.get(id).Status)
	assert.NotContains(t, k.log(id), "\nover\n")

	run := k.awaitStopped(id)
	assert.EqualValues(t, 0, codeOf(run))
	assert.Equal(t, "Pod "+run.PodName+" Exited Successfully", run.ExitReason)
	whole := k.log(id)
	assert.True(t, strings.HasSuffix(strings.TrimRight(whole, "\n"), "no end"), whole)
	assert.Equal(t, 1, strings.Count(whole, "\nbegun\n"), whole)
	assert.Equal(t, 1, strings.Count(whole, "\nover\n"), whole)

	k.awaitRecorded(id)
	pods := k.cluster.Client.CoreV1().Pods(k.namespace)
	background := metav1.DeletePropagationBackground
	require.NoError(t, k.cluster.Client.BatchV1().Jobs(k.namespace).Delete(t.Context(), id, metav1.DeleteOptions{PropagationPolicy: &background}))
	require.Eventually(t, func() bool {
		list, err := pods.List(t.Context(), metav1.ListOptions{})
		return err == nil && len(list.Items) == 0
	}, kubePatience, kubePoll, "the pod is not gone")
	assert.Equal(t, whole, k.log(id), "the log is there when the pod is gone")
	assert.Equal(t, whole, k.polled(id), "in pages as well as at once")
	assert.EqualValues(t, 0, codeOf(k.get(id)), "deleting what has ended changes nothing")
}

// awaitRecorded waits until the run's Job says that everything of it is recorded.
func (k *kubeInstallation) awaitRecorded(job string) {
	k.in.t.Helper()
	require.Eventually(k.in.t, func() bool {
		found, err := k.cluster.Client.BatchV1().Jobs(k.namespace).Get(k.in.t.Context(), job, metav1.GetOptions{})
		require.NoError(k.in.t, err)
		marked := found.Annotations["flotilla.stitchfix.com/recorded"] != ""
		if marked {
			require.EqualValues(k.in.t, time.Hour.Seconds(), *found.Spec.TTLSecondsAfterFinished)
		}
		return marked
	}, kubePatience, kubePoll, "the Job is not marked as recorded")
}
