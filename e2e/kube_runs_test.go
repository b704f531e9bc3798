//go:build kube

package e2e

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stitchfix/flotilla-os/clients/kube/kubetest"
	"github.com/stitchfix/flotilla-os/clients/logs"
	"github.com/stitchfix/flotilla-os/state"
)

// TestKubeLog: a run's log is there while it runs, after its end, and after its pod is gone.
func TestKubeLog(t *testing.T) {
	t.Parallel()
	k := startKube(t)
	// Nothing is traced behind the line that does not end: the cluster would join both.
	id := k.run("echo begun; sleep 6; echo over >&2; set +x; sleep 1; printf 'no end'")
	k.awaitStatus(id, state.StatusRunning)
	require.Eventually(t, func() bool { return linesOf(k.log(id), "begun") == 1 }, kubePatience, kubePoll, "no log while it runs")
	require.Equal(t, state.StatusRunning, k.get(id).Status)
	assert.Zero(t, linesOf(k.log(id), "over"))

	run := k.awaitStopped(id)
	assert.EqualValues(t, 0, codeOf(run))
	assert.Equal(t, "Pod "+run.PodName+" Exited Successfully", run.ExitReason)
	whole := k.log(id)
	for _, line := range []string{"begun", "over", "no end"} {
		assert.Equal(t, 1, linesOf(whole, line), whole)
	}

	k.awaitRecorded(id)
	pods := k.admin.Client.CoreV1().Pods(k.namespace)
	k.deleteJob(id)
	require.Eventually(t, func() bool {
		list, err := pods.List(t.Context(), metav1.ListOptions{})
		return err == nil && len(list.Items) == 0
	}, kubePatience, kubePoll, "the pod is not gone")
	assert.Equal(t, whole, k.log(id), "the log is there when the pod is gone")
	assert.Equal(t, whole, k.polled(id), "in pages as well as at once")
	assert.EqualValues(t, 0, codeOf(k.get(id)), "deleting what has ended changes nothing")
}

// awaitRecorded waits until the run's Job says that everything of it is recorded.
func (k *kubeServer) awaitRecorded(job string) {
	k.t.Helper()
	require.Eventually(k.t, func() bool {
		found, err := k.admin.Client.BatchV1().Jobs(k.namespace).Get(k.t.Context(), job, metav1.GetOptions{})
		require.NoError(k.t, err)
		marked := found.Annotations["flotilla.stitchfix.com/recorded"] != ""
		if marked {
			require.EqualValues(k.t, time.Hour.Seconds(), *found.Spec.TTLSecondsAfterFinished)
		}
		return marked
	}, kubePatience, kubePoll, "the Job is not marked as recorded")
}

// TestKubeAdaptiveResources is the story of `make demo` on a cluster.
func TestKubeAdaptiveResources(t *testing.T) {
	t.Parallel()
	k := startKube(t)
	definition := k.defineImage(kubetest.Image(), "head -c 600M /dev/zero | tail > /dev/null; echo done", 512)
	first := k.awaitStopped(k.execute(definition))
	assert.EqualValues(t, 137, codeOf(first))
	assert.Equal(t, state.ReasonOOMKilled, first.ExitReason)
	assert.EqualValues(t, 512, first.Memory)

	id := k.execute(definition)
	second := k.awaitStopped(id)
	assert.EqualValues(t, 0, codeOf(second), second.ExitReason)
	assert.EqualValues(t, 896, second.Memory)
	assert.EqualValues(t, 896, second.MemoryLimit)

	job, err := k.admin.Client.BatchV1().Jobs(k.namespace).Get(t.Context(), id, metav1.GetOptions{})
	require.NoError(t, err)
	sizes := job.Spec.Template.Spec.Containers[0].Resources
	assert.EqualValues(t, second.Memory*1_000_000, sizes.Requests.Memory().Value())
	assert.EqualValues(t, second.MemoryLimit*1_000_000, sizes.Limits.Memory().Value())
	assert.EqualValues(t, second.CPU, sizes.Requests.Cpu().MilliValue())
	assert.EqualValues(t, second.CPULimit, sizes.Limits.Cpu().MilliValue())
}

// TestKubeUsage: what a run uses, and what happened to its pod, come from the cluster.
func TestKubeUsage(t *testing.T) {
	t.Parallel()
	k := startKube(t)
	id := k.run("x=$(head -c 150M /dev/zero | tr '\\0' a); for i in 1 2 3 4 5 6; do sleep 10; : ${#x}; done")
	run := k.awaitStopped(id)
	assert.EqualValues(t, 0, codeOf(run), run.ExitReason)
	assert.Greater(t, run.MaxMemoryUsed, int64(120), "MB")
	assert.Less(t, run.MaxMemoryUsed, int64(512), "MB")
	assert.Positive(t, run.MaxCPUUsed)
	k.awaitRecorded(id)
	run = k.get(id)
	reasons := map[string]int{}
	for _, e := range run.PodEvents {
		reasons[e.Reason]++
		assert.NotNil(t, e.Timestamp)
		assert.NotEmpty(t, e.SourceObject)
	}
	for _, reason := range []string{"Scheduled", "Pulled", "Created", "Started"} {
		assert.Equal(t, 1, reasons[reason], "%s in %v", reason, run.PodEvents)
	}
	assert.Equal(t, "localhost", run.Instance.DNSName)
	assert.Equal(t, k.namespace, run.Namespace)
	var manifest string
	k.mustCall("GET", "/"+id+"/manifest", nil, &manifest)
	assert.Contains(t, manifest, "kind: Job")
	assert.Contains(t, manifest, "name: "+id)
}

// TestKubeLogFollowAlways: what a run wrote is kept although nobody read it before its pod was taken away by force.
func TestKubeLogFollowAlways(t *testing.T) {
	t.Parallel()
	k := startKube(t, "EKS_LOG_FOLLOW=always", "RETRY_BASE_DELAY=1s")
	id := k.run(againCommand)
	k.awaitStatus(id, state.StatusRunning)
	archive, err := logs.NewFiles(filepath.Join(k.dataDir("one"), "logs"))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		part, err := archive.Read(t.Context(), logs.Key{RunID: id, Attempt: 1}, 0, 1<<20)
		return err == nil && linesOf(string(part.Data), "first") == 1
	}, kubePatience, kubePoll, "the log is not followed")
	require.NoError(t, k.admin.Client.CoreV1().Pods(k.namespace).Delete(t.Context(), k.pods(id)[0].Name,
		metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
	run := k.awaitStopped(id)
	assert.EqualValues(t, 0, codeOf(run), run.ExitReason)
	log := k.log(id)
	first, second, both := strings.Cut(log, "--- attempt 2 ---\n")
	assert.True(t, both, log)
	assert.Equal(t, 1, linesOf(first, "first"), log)
	assert.Equal(t, 1, linesOf(second, "second"), log)
}

// TestKubeTeam: a team's run waits for a node of the team's, and the team is registered where its nodes are provided.
func TestKubeTeam(t *testing.T) {
	t.Parallel()
	k := startKube(t)
	// A name that no other test's node has; the run's label is what a user writes.
	team := "Data Science " + k.namespace
	name := "data-science-" + k.namespace
	id := k.run("true", object{"labels": object{"team": team}})
	k.awaits(id, "unschedulable", func(r kubeRun) bool { return strings.Contains(r.StatusReason, "Unschedulable") })

	registered, err := k.admin.Client.CoreV1().ConfigMaps(k.namespace).Get(t.Context(), "flotilla-team-"+name, metav1.GetOptions{})
	require.NoError(t, err)
	assert.Equal(t, name, registered.Data["team"])
	assert.Equal(t, "flotilla", registered.Labels["app.kubernetes.io/managed-by"])
	assert.Equal(t, "true", registered.Labels["flotilla.stitchfix.com/team-registry"])

	nodes := kubetest.Whole(t).CoreV1().Nodes()
	list, err := nodes.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.unschedulable=false"})
	require.NoError(t, err)
	require.NotEmpty(t, list.Items)
	labelled := func(value string) error {
		_, err := nodes.Patch(context.Background(), list.Items[0].Name, types.MergePatchType,
			[]byte(`{"metadata": {"labels": {"team": `+value+`}}}`), metav1.PatchOptions{})
		return err
	}
	require.NoError(t, labelled(strconv.Quote(name)))
	t.Cleanup(func() { assert.NoError(t, labelled("null")) })
	assert.EqualValues(t, 0, codeOf(k.awaitStopped(id)))
}
