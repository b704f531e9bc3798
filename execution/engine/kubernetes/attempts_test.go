package kubernetes

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
	"github.com/stitchfix/flotilla-os/state"
)

func makeJob(name, run string) *batchv1.Job {
	return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "jobs", Labels: map[string]string{job.LabelRunID: run}}}
}

func makePod(name, jobName, run string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: name, Namespace: "jobs", UID: types.UID(name), Labels: map[string]string{job.LabelRunID: run, labelJobName: jobName},
	}}
}

func makeAttempts() (*attempts, *[]string) {
	var woken []string
	return newAttempts(func(jobName string) { woken = append(woken, jobName) }, func() {}), &woken
}

func TestAttemptsAreJobsOfRuns(t *testing.T) {
	t.Parallel()
	as, woken := makeAttempts()
	as.jobSeen(makeJob("r", "r"))
	as.jobSeen(makeJob("r-2", "r"))
	as.jobSeen(makeJob("somebody-elses", "r"))
	assert.Equal(t, []string{"r", "r-2"}, *woken)
	second, ok := as.get("r-2")
	require.True(t, ok)
	assert.EqualValues(t, 2, second.number)
	assert.True(t, as.knows("r"))
	assert.False(t, as.knows("r-3"))
}

func TestAttemptsAfterAGap(t *testing.T) {
	t.Parallel()
	as, _ := makeAttempts()
	jobs, pods := newStore(as.jobSeen, as.jobRemoved), newStore(as.podSeen, as.podRemoved)
	require.NoError(t, jobs.Replace([]any{makeJob("a", "a"), makeJob("b", "b")}, "1"))
	require.NoError(t, pods.Replace([]any{makePod("a-1", "a", "a"), makePod("b-1", "b", "b")}, "1"))
	require.NoError(t, jobs.Replace([]any{makeJob("b", "b")}, "2"))
	require.NoError(t, pods.Replace([]any{makePod("b-1", "b", "b")}, "2"))
	a, _ := as.get("a")
	assert.True(t, a.jobGone && a.podGone, "what went during the gap is gone")
	assert.NotNil(t, a.pod, "it is kept as it was last")
	still, _ := as.get("b")
	assert.False(t, still.jobGone || still.podGone)
	select {
	case <-jobs.synced:
	default:
		t.Error("the first list is there, but synced is open")
	}
}

func TestAttemptsAreForgotten(t *testing.T) {
	t.Parallel()
	as, _ := makeAttempts()
	as.jobSeen(makeJob("r", "r"))
	as.podSeen(makePod("r-1", "r", "r"))
	as.jobRemoved("r", nil)
	as.podRemoved("r-1", nil)
	assert.Contains(t, as.living(), "r", "its end is not recorded")
	as.change("r", func(a *attempt) { a.over, a.finished = true, true })
	_, ok := as.get("r")
	assert.False(t, ok)
}

func TestAttemptsOfRecordedJobs(t *testing.T) {
	t.Parallel()
	as, _ := makeAttempts()
	j := makeJob("r", "r")
	j.Annotations = map[string]string{annotationRecorded: "true"}
	as.jobSeen(strip(j).(*batchv1.Job))
	a, _ := as.get("r")
	assert.True(t, a.over && a.finished, "after a restart, nothing remains to be done")
	assert.Empty(t, as.living())
}

func TestEventsOfWhatIsNotSeenYet(t *testing.T) {
	t.Parallel()
	as, _ := makeAttempts()
	as.event("r", state.PodEvent{Reason: "Scheduled"}, 20)
	as.podSeen(makePod("r-1", "r", "r"))
	a, _ := as.get("r")
	assert.Len(t, a.events.list, 1)
	for i := range mostEarlyJobs + 10 {
		as.event(fmt.Sprintf("nobody-%d", i), state.PodEvent{}, 20)
	}
	assert.LessOrEqual(t, len(as.early), mostEarlyJobs, "events that belong to no run do not accumulate")
}

func TestEventRing(t *testing.T) {
	t.Parallel()
	var ring eventRing
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(seconds int) *time.Time { return new(start.Add(time.Duration(seconds) * time.Second)) }
	assert.Nil(t, ring.newest(20))
	for i := 29; i >= 0; i-- {
		ring.add(state.PodEvent{Reason: fmt.Sprint(i), Timestamp: at(i)}, 20)
	}
	assert.False(t, ring.add(state.PodEvent{Reason: "29", Timestamp: at(60)}, 20), "the same event again")
	all := ring.newest(20)
	require.Len(t, all, 20)
	assert.Equal(t, "10", all[0].Reason, "the oldest of the newest comes first")
	assert.Equal(t, *at(60), *all[19].Timestamp, "the later time of two counts")
	assert.Len(t, ring.newest(5), 5)
	assert.Nil(t, ring.newest(0))
}

func TestStrip(t *testing.T) {
	t.Parallel()
	pod := makePod("r-1", "r", "r")
	pod.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m"}}
	pod.Labels["other"] = "x"
	pod.Spec = corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Env: []corev1.EnvVar{{Name: "SECRET", Value: "s"}}}}}
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "r"}}}
	kept := strip(pod).(*corev1.Pod)
	assert.Empty(t, kept.ManagedFields)
	assert.Empty(t, kept.Spec.Containers)
	assert.Equal(t, map[string]string{job.LabelRunID: "r", labelJobName: "r"}, kept.Labels)
	assert.Equal(t, "n", kept.Spec.NodeName)
	assert.Equal(t, corev1.PodRunning, kept.Status.Phase)
}
