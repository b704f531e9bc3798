//go:build kube

package e2e

import (
	"context"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stitchfix/flotilla-os/clients/kube/kubetest"
	"github.com/stitchfix/flotilla-os/clients/logs"
	"github.com/stitchfix/flotilla-os/state"
)

// TestKubeLog reads a run's log while the run is RUNNING, after its end, and after its pod was deleted.
func TestKubeLog(t *testing.T) {
	t.Parallel()
	k := startKube(t)
	// `set +x` keeps the trace of the last command away from the line without an end, which the cluster would join to it.
	id := k.execute("echo begun; sleep 6; echo over >&2; set +x; sleep 1; printf 'no end'")
	k.awaitStatus(id, state.StatusRunning)
	k.await("the log of a RUNNING run", func() bool { return linesOf(k.log(id), "begun") == 1 })
	require.Equal(t, state.StatusRunning, k.get(id).Status)
	assert.Zero(t, linesOf(k.log(id), "over"))

	run := k.awaitStopped(id)
	assert.EqualValues(t, 0, run.code())
	assert.Equal(t, "Pod "+run.PodName+" Exited Successfully", run.ExitReason)
	whole := k.log(id)
	for _, line := range []string{"begun", "over", "no end"} {
		assert.Equal(t, 1, linesOf(whole, line), whole)
	}

	k.awaitRecorded(id)
	k.deleteJob(id)
	k.awaitNoPodsOf(id)
	assert.Equal(t, whole, k.log(id), "the log does not need the pod")
	assert.Equal(t, whole, k.pagedLog(id), "the log read in pages")
	assert.EqualValues(t, 0, k.get(id).code(), "deleting the Job of a STOPPED run changes nothing")
}

// TestKubeAdaptiveResources is `make demo` on a cluster.
func TestKubeAdaptiveResources(t *testing.T) {
	t.Parallel()
	k := startKube(t)
	definition := k.define("head -c 600M /dev/zero | tail > /dev/null; echo done", object{"memory": 512})
	first := k.awaitStopped(k.run(definition))
	assert.EqualValues(t, 137, first.code())
	assert.Equal(t, state.ReasonOOMKilled, first.ExitReason)
	assert.EqualValues(t, 512, first.Memory)

	id := k.run(definition)
	second := k.awaitStopped(id)
	assert.EqualValues(t, 0, second.code(), second.ExitReason)
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

// TestKubeUsage checks the usage, the pod events and the manifest of a run.
func TestKubeUsage(t *testing.T) {
	t.Parallel()
	k := startKube(t)
	id := k.execute("x=$(head -c 150M /dev/zero | tr '\\0' a); for i in 1 2 3 4 5 6; do sleep 10; : ${#x}; done")
	run := k.awaitStopped(id)
	assert.EqualValues(t, 0, run.code(), run.ExitReason)
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

// TestKubeLogFollowAlways checks that eks_log_follow keeps the log of a pod that is deleted by force.
func TestKubeLogFollowAlways(t *testing.T) {
	t.Parallel()
	k := startKube(t, "EKS_LOG_FOLLOW=always", "RETRY_BASE_DELAY=1s")
	id := k.execute(againCommand)
	k.awaitStatus(id, state.StatusRunning)
	archive, err := logs.NewFiles(filepath.Join(k.dataDir("one"), "logs"))
	require.NoError(t, err)
	k.await("the log to be followed", func() bool {
		part, err := archive.Read(t.Context(), logs.Key{RunID: id, Attempt: 1}, 0, 1<<20)
		return err == nil && linesOf(string(part.Data), "first") == 1
	})
	require.NoError(t, k.admin.Client.CoreV1().Pods(k.namespace).Delete(t.Context(), k.pods(id)[0].Name,
		metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
	run := k.awaitStopped(id)
	assert.EqualValues(t, 0, run.code(), run.ExitReason)
	log := k.log(id)
	first, second, both := strings.Cut(log, "--- attempt 2 ---\n")
	assert.True(t, both, log)
	assert.Equal(t, 1, linesOf(first, "first"), log)
	assert.Equal(t, 1, linesOf(second, "second"), log)
}

// TestKubeTeam checks that a team's run waits for a node with the team's label and that the team is registered in the
// cluster.
func TestKubeTeam(t *testing.T) {
	t.Parallel()
	k := startKube(t)
	// No other test has a node of this team. The run's label is what a user writes.
	team := "Data Science " + k.namespace
	name := "data-science-" + k.namespace
	id := k.execute("true", object{"labels": object{"team": team}})
	k.awaitUnschedulable(id)

	registered, err := k.admin.Client.CoreV1().ConfigMaps(k.namespace).Get(t.Context(), "flotilla-team-"+name, metav1.GetOptions{})
	require.NoError(t, err)
	assert.Equal(t, name, registered.Data["team"])
	assert.Equal(t, "flotilla", registered.Labels["app.kubernetes.io/managed-by"])
	assert.Equal(t, "true", registered.Labels["flotilla.stitchfix.com/team-registry"])

	nodes := kubetest.Whole(t).CoreV1().Nodes()
	list, err := nodes.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.unschedulable=false"})
	require.NoError(t, err)
	require.NotEmpty(t, list.Items)
	label := func(value string) error {
		_, err := nodes.Patch(context.Background(), list.Items[0].Name, types.MergePatchType,
			[]byte(`{"metadata": {"labels": {"team": `+value+`}}}`), metav1.PatchOptions{})
		return err
	}
	require.NoError(t, label(strconv.Quote(name)))
	t.Cleanup(func() { assert.NoError(t, label("null")) })
	assert.EqualValues(t, 0, k.awaitStopped(id).code())
}

// pagedLog returns the log of a run, read page by page as clients do.
func (s *server) pagedLog(id string) string {
	s.in.t.Helper()
	var all, seen string
	for {
		var page struct {
			Log      string `json:"log"`
			LastSeen string `json:"last_seen"`
		}
		s.mustCall(http.MethodGet, "/"+id+"/logs?last_seen="+seen, nil, &page)
		all += page.Log
		if page.LastSeen == seen {
			return all
		}
		seen = page.LastSeen
	}
}

// linesOf returns how many lines of a log equal wanted. A pod's two streams, one of which traces the commands, reach its
// log in any order.
func linesOf(log, wanted string) (n int) {
	for line := range strings.Lines(log) {
		if strings.TrimSuffix(line, "\n") == wanted {
			n++
		}
	}
	return n
}
