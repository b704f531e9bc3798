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

func makeBoard() (*board, *[]string) {
	var woken []string
	return newBoard(func(jobName string) { woken = append(woken, jobName) }), &woken
}

func TestBoardKnowsAttempts(t *testing.T) {
	t.Parallel()
	b, woken := makeBoard()
	b.jobSeen(makeJob("r", "r"))
	b.jobSeen(makeJob("r-2", "r"))
	b.jobSeen(makeJob("somebody-elses", "r"))
	assert.Equal(t, []string{"r", "r-2"}, *woken)
	second, ok := b.get("r-2")
	require.True(t, ok)
	assert.EqualValues(t, 2, second.number)
	assert.True(t, b.knows("r"))
	assert.False(t, b.knows("r-3"))
}

func TestBoardAfterAGap(t *testing.T) {
	t.Parallel()
	b, _ := makeBoard()
	jobs, pods := b.jobStore(), b.podStore()
	require.NoError(t, jobs.Replace([]any{makeJob("a", "a"), makeJob("b", "b")}, "1"))
	require.NoError(t, pods.Replace([]any{makePod("a-1", "a", "a"), makePod("b-1", "b", "b")}, "1"))
	require.NoError(t, jobs.Replace([]any{makeJob("b", "b")}, "2"))
	require.NoError(t, pods.Replace([]any{makePod("b-1", "b", "b")}, "2"))
	a, _ := b.get("a")
	assert.True(t, a.jobGone && a.podGone, "what went during the gap is known to be gone")
	assert.NotNil(t, a.pod, "and what it was last")
	still, _ := b.get("b")
	assert.False(t, still.jobGone || still.podGone)
	select {
	case <-jobs.synced:
	default:
		t.Error("the first list is in")
	}
}

func TestBoardForgets(t *testing.T) {
	t.Parallel()
	b, _ := makeBoard()
	b.jobSeen(makeJob("r", "r"))
	b.podSeen(makePod("r-1", "r", "r"))
	b.jobRemoved("r")
	b.podRemoved("r-1", nil)
	assert.Contains(t, b.living(), "r", "its end is not recorded")
	b.change("r", func(a *attempt) { a.over, a.finished = true, true })
	_, ok := b.get("r")
	assert.False(t, ok)
}

func TestBoardOfRecordedJobs(t *testing.T) {
	t.Parallel()
	b, _ := makeBoard()
	j := makeJob("r", "r")
	j.Annotations = map[string]string{annotationRecorded: "true"}
	b.jobSeen(stripJob(j))
	a, _ := b.get("r")
	assert.True(t, a.over && a.finished, "after a restart, nothing is left to do")
	assert.Empty(t, b.living())
}

func TestEventsOfWhatIsNotSeenYet(t *testing.T) {
	t.Parallel()
	b, _ := makeBoard()
	b.event("r", state.PodEvent{Reason: "Scheduled"}, 20)
	b.podSeen(makePod("r-1", "r", "r"))
	a, _ := b.get("r")
	assert.Len(t, a.events.list, 1)
	for i := range mostEarlyJobs + 10 {
		b.event(fmt.Sprintf("nobody-%d", i), state.PodEvent{}, 20)
	}
	assert.LessOrEqual(t, len(b.early), mostEarlyJobs, "what is nobody's does not pile up")
}

func TestEventRing(t *testing.T) {
	t.Parallel()
	var ring eventRing
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(seconds int) *time.Time { return new(start.Add(time.Duration(seconds) * time.Second)) }
	assert.Nil(t, ring.all(20))
	for i := 29; i >= 0; i-- {
		ring.add(state.PodEvent{Reason: fmt.Sprint(i), Timestamp: at(i)}, 20)
	}
	assert.False(t, ring.add(state.PodEvent{Reason: "29", Timestamp: at(60)}, 20), "said before")
	all := ring.all(20)
	require.Len(t, all, 20)
	assert.Equal(t, "10", all[0].Reason, "the oldest of the newest comes first")
	assert.Equal(t, *at(60), *all[19].Timestamp, "the later time of two counts")
	assert.Len(t, ring.all(5), 5)
	assert.Nil(t, ring.all(0))
}

func TestStripKeepsWhatIsLookedAt(t *testing.T) {
	t.Parallel()
	pod := makePod("r-1", "r", "r")
	pod.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m"}}
	pod.Labels["other"] = "x"
	pod.Spec = corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Env: []corev1.EnvVar{{Name: "SECRET", Value: "s"}}}}}
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "r"}}}
	kept := stripPod(pod)
	assert.Empty(t, kept.ManagedFields)
	assert.Empty(t, kept.Spec.Containers)
	assert.Equal(t, map[string]string{job.LabelRunID: "r", labelJobName: "r"}, kept.Labels)
	assert.Equal(t, "n", kept.Spec.NodeName)
	assert.Equal(t, corev1.PodRunning, kept.Status.Phase)
	_, err := stripObject(&corev1.Node{})
	assert.Error(t, err)
}
