package job

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/state"
)

// pullDeadline is the deadline of all tests.
const pullDeadline = 10 * time.Minute

// recorded returns what a real cluster showed: a Job, its pod, or both.
func recorded(t *testing.T, name string) Sighting {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("testdata", "outcomes", name+".json"))
	require.NoError(t, err)
	var objects struct {
		Job *batchv1.Job `json:"job"`
		Pod *corev1.Pod  `json:"pod"`
	}
	require.NoError(t, json.Unmarshal(body, &objects))
	s := Sighting{Job: objects.Job, Pod: objects.Pod, PullDeadline: pullDeadline}
	switch {
	case s.Pod != nil:
		s.Container, s.Now = s.Pod.Labels[LabelRunID], s.Pod.CreationTimestamp.Add(time.Minute)
	default:
		s.Container, s.Now = s.Job.Name, s.Job.CreationTimestamp.Add(2*time.Minute)
	}
	return s
}

// end returns the container's end, to be changed.
func (s Sighting) end() *corev1.ContainerStateTerminated {
	return s.Pod.Status.ContainerStatuses[0].State.Terminated
}

const noCode = -1

// outcomeCase is a row of docs/kubernetes-status.md.
type outcomeCase struct {
	row    int
	object string
	change func(s *Sighting)
	status state.Status
	code   int64 // noCode for none
	reason string
	// also holds a part of the status reason.
	statusReason string
	remove       bool
}

func asked(s *Sighting) { s.Asked = true }

func TestClassify(t *testing.T) {
	t.Parallel()
	const stopped, retry = state.StatusStopped, state.StatusNeedsRetry
	const unchanged = state.Status("")
	for name, tc := range map[string]outcomeCase{
		"killed for memory":                               {row: 1, object: "oom", status: stopped, code: 137, reason: "OOMKilled"},
		"killed for memory while we ended it":             {row: 1, object: "oom", change: asked, status: stopped, code: 137, reason: "OOMKilled"},
		"killed for memory and evicted":                   {row: 1, object: "oom", change: func(s *Sighting) { s.Pod.Status.Reason = "Evicted" }, status: stopped, code: 137, reason: "OOMKilled"},
		"a child killed for memory fails the command":     {row: 1, object: "oom", change: func(s *Sighting) { s.end().ExitCode = 1 }, status: stopped, code: 1, reason: "OOMKilled"},
		"past the pod's deadline":                         {row: 2, object: "deadline", status: stopped, code: 124, reason: "DeadlineExceeded", remove: true},
		"past the Job's deadline, its pod just ended":     {row: 2, object: "job-deadline", status: stopped, code: 124, reason: "DeadlineExceeded", remove: true},
		"past the Job's deadline, as it looks at last":    {row: 2, object: "job-deadline-at-last", status: stopped, code: 124, reason: "DeadlineExceeded", remove: true},
		"a child killed for memory, the command survives": {row: 3, object: "oom-child", status: stopped, code: 0, reason: "a child process was OOMKilled"},
		"success":                                        {row: 4, object: "success", status: stopped, code: 0, reason: "Exited Successfully"},
		"success of a pod that was told to end":          {row: 4, object: "deleted-zero", status: stopped, code: 0, reason: "Exited Successfully"},
		"evicted by its node":                            {row: 5, object: "evicted", status: retry, code: noCode, reason: "Evicted: ", remove: true},
		"refused by its node for want of CPU":            {row: 5, object: "out-of-cpu", status: retry, code: noCode, reason: "OutOfcpu", remove: true},
		"refused by its node for its selector":           {row: 5, object: "node-affinity", status: retry, code: noCode, reason: "NodeAffinity", remove: true},
		"its node shut down":                             {row: 5, object: "exit-137", change: func(s *Sighting) { s.Pod.Status.Reason = "Terminated" }, status: retry, code: noCode, reason: "Terminated", remove: true},
		"its node is gone":                               {row: 6, object: "node-deleted", status: retry, code: noCode, reason: "DeletionByPodGC: PodGC: node no longer exists", remove: true},
		"its container's end is not known":               {row: 7, object: "exit-137", change: func(s *Sighting) { s.end().Reason = "ContainerStatusUnknown" }, status: retry, code: noCode, reason: "ContainerStatusUnknown", remove: true},
		"another container of the pod failed":            {row: 8, object: "success", change: func(s *Sighting) { s.Pod.Status.Phase = corev1.PodFailed }, status: stopped, code: 0, reason: "Exited Successfully"},
		"evicted through the API":                        {row: 9, object: "api-evicted", status: retry, code: noCode, reason: "EvictionByEvictionAPI", remove: true},
		"evicted through the API, as it looks at last":   {row: 9, object: "api-evicted-at-last", status: retry, code: noCode, reason: "EvictionByEvictionAPI", remove: true},
		"preempted with a code of the command's handler": {row: 9, object: "exit-3", change: disruptedAt(0), status: retry, code: noCode, reason: "PreemptionByScheduler", remove: true},
		"deleted by hand":                                {row: 10, object: "deleted", status: retry, code: noCode, reason: "The pod was deleted from the cluster.", remove: true},
		"deleted by hand, as it looks at last":           {row: 10, object: "deleted-at-last", status: retry, code: noCode, reason: "The pod was deleted from the cluster.", remove: true},
		"failed, then disrupted":                         {row: 11, object: "exit-3", change: disruptedAt(time.Second), status: stopped, code: 3, reason: "Error"},
		"failed, then deleted":                           {row: 11, object: "exit-3", change: deletedAt(time.Minute), status: stopped, code: 3, reason: "Error"},
		"failed":                                         {row: 12, object: "exit-3", status: stopped, code: 3, reason: "Error"},
		"failed with 137 of its own":                     {row: 12, object: "exit-137", status: stopped, code: 137, reason: "Error"},
		"failed with a message of its own":               {row: 12, object: "exit-3", change: func(s *Sighting) { s.end().Message = "no input" }, status: stopped, code: 3, reason: "Error: no input"},
		"no bash in the image":                           {row: 12, object: "start-error", status: stopped, code: 128, reason: "StartError: "},
		"deleted by us":                                  {row: 13, object: "deleted", change: asked, status: stopped, code: noCode},
		"evicted while we ended it":                      {row: 13, object: "api-evicted", change: asked, status: stopped, code: noCode},
		"removed by force":                               {row: 14, object: "force-deleted", change: func(s *Sighting) { s.PodGone = true }, status: retry, code: noCode, reason: "The pod was deleted from the cluster.", remove: true},
		"removed by us":                                  {row: 14, object: "force-deleted", change: func(s *Sighting) { s.PodGone, s.Asked = true, true }, status: stopped, code: noCode},
		"removed with its Job":                           {row: 15, object: "running", change: func(s *Sighting) { s.PodGone, s.JobGone = true, true }, status: retry, code: noCode, reason: "The Job was deleted from the cluster."},
		"the Job's deadline is over, the pod runs":       {row: 16, object: "job-deadline", change: runs, status: stopped, code: 124, reason: "DeadlineExceeded", remove: true},
		"being deleted":                                  {row: 17, object: "being-deleted", change: func(s *Sighting) { s.Now = s.Pod.DeletionTimestamp.Add(59 * time.Second) }, status: unchanged, code: noCode},
		"being deleted, and its node does not answer":    {row: 18, object: "being-deleted", change: func(s *Sighting) { s.Now = s.Pod.DeletionTimestamp.Add(time.Minute) }, status: retry, code: noCode, reason: "does not answer", remove: true},
		"running":                                                   {row: 19, object: "running", status: state.StatusRunning, code: noCode},
		"running without its Job":                                   {row: 19, object: "running", change: func(s *Sighting) { s.JobGone = true }, status: state.StatusRunning, code: noCode},
		"running beside another container":                          {row: 19, object: "running", change: besides, status: state.StatusRunning, code: noCode},
		"ended, and the pod not":                                    {row: 20, object: "terminated-but-pending", change: func(s *Sighting) { s.Pod.Status.Phase = corev1.PodRunning }, status: state.StatusRunning, code: noCode},
		"ended quickly":                                             {row: 20, object: "terminated-but-pending", status: unchanged, code: noCode},
		"could not be started, and the pod not ended":               {row: 20, object: "terminated-start-error-but-pending", status: unchanged, code: noCode},
		"no node for it":                                            {row: 21, object: "unschedulable", status: state.StatusPending, code: noCode, statusReason: "Unschedulable: 0/1 nodes are available"},
		"an image name that is none":                                {row: 22, object: "invalid-image", status: stopped, code: 1, reason: "InvalidImageName: ", remove: true},
		"an image that does not exist":                              {row: 23, object: "no-such-image", status: stopped, code: 1, reason: "code = NotFound", remove: true},
		"being created":                                             {row: 24, object: "creating", status: state.StatusPending, code: noCode},
		"a registry that does not answer":                           {row: 24, object: "registry-down", status: state.StatusPending, code: noCode, statusReason: "ImagePullBackOff: "},
		"a secret that is not there yet":                            {row: 24, object: "config-error", status: state.StatusPending, code: noCode, statusReason: `secret "none" not found`},
		"a secret that does not come":                               {row: 25, object: "config-error", change: late, status: stopped, code: 1, reason: `CreateContainerConfigError: secret "none" not found`, remove: true},
		"a registry that did not answer in time":                    {row: 26, object: "registry-down", change: late, status: retry, code: noCode, reason: "The container did not start within 10m0s: ImagePullBackOff: ", remove: true},
		"a container that was not created in time":                  {row: 26, object: "creating", change: late, status: retry, code: noCode, reason: "The container did not start within 10m0s: ContainerCreating", remove: true},
		"no pod yet":                                                {row: 27, object: "no-pod", status: state.StatusPending, code: noCode},
		"complete without a pod":                                    {row: 28, object: "job-complete-no-pod", status: stopped, code: 0, reason: "Exited Successfully"},
		"complete, its pod not in sight yet":                        {row: 28, object: "job-complete-no-pod", change: justEnded, status: unchanged, code: noCode},
		"past the Job's deadline without a pod":                     {row: 29, object: "job-deadline-no-pod", status: stopped, code: 124, reason: "DeadlineExceeded", remove: true},
		"failed without a pod":                                      {row: 30, object: "job-failed-no-pod", status: stopped, code: noCode, reason: "the exit code is not known"},
		"failed, its pod not in sight yet":                          {row: 30, object: "job-failed-no-pod", change: justEnded, status: unchanged, code: noCode},
		"the Job was deleted before it had a pod":                   {row: 31, object: "no-pod", change: func(s *Sighting) { s.JobGone = true }, status: retry, code: noCode, reason: "The Job was deleted from the cluster."},
		"the Job was deleted by us before it had a pod":             {row: 31, object: "no-pod", change: func(s *Sighting) { s.JobGone, s.Asked = true, true }, status: stopped, code: noCode},
		"an ended Job was deleted before its pod was ever in sight": {row: 30, object: "job-failed-no-pod", change: func(s *Sighting) { s.JobGone = true }, status: stopped, code: noCode, reason: "the exit code is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := recorded(t, tc.object)
			if tc.change != nil {
				tc.change(&s)
			}
			got := Classify(s)
			assert.Equal(t, tc.status, got.Status)
			if tc.code == noCode {
				assert.Nil(t, got.Update.ExitCode, "exit code")
			} else if assert.NotNil(t, got.Update.ExitCode, "exit code") {
				assert.Equal(t, tc.code, *got.Update.ExitCode)
			}
			if tc.reason == "" {
				assert.Nil(t, got.Update.ExitReason)
			} else if assert.NotNil(t, got.Update.ExitReason) {
				assert.Contains(t, *got.Update.ExitReason, tc.reason)
			}
			if tc.statusReason == "" {
				assert.Nil(t, got.Update.StatusReason)
			} else if assert.NotNil(t, got.Update.StatusReason) {
				assert.Contains(t, *got.Update.StatusReason, tc.statusReason)
			}
			assert.Equal(t, tc.remove, got.Remove, "remove")
			if got.Status == "" && tc.row != 20 {
				assert.Positive(t, got.Again, "nothing may happen, so that it has to be looked at again")
			}
		})
	}
}

func late(s *Sighting) { s.Now = s.Pod.CreationTimestamp.Add(pullDeadline + time.Minute) }

func justEnded(s *Sighting) { s.Now = s.jobEnd().Add(settle - time.Second) }

func runs(s *Sighting) {
	s.Pod.Status.Phase = corev1.PodRunning
	s.Pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
}

func besides(s *Sighting) {
	other := corev1.ContainerStatus{Name: "injected", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}}
	s.Pod.Status.ContainerStatuses = append([]corev1.ContainerStatus{other}, s.Pod.Status.ContainerStatuses...)
}

// disruptedAt has the pod preempted that long after its container's end.
func disruptedAt(after time.Duration) func(*Sighting) {
	return func(s *Sighting) {
		s.Pod.Status.Conditions = append(s.Pod.Status.Conditions, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "PreemptionByScheduler",
			LastTransitionTime: metav1.NewTime(s.end().FinishedAt.Add(after)),
		})
	}
}

// deletedAt has the pod deleted that long after its container's end.
func deletedAt(after time.Duration) func(*Sighting) {
	return func(s *Sighting) {
		s.Pod.DeletionTimestamp = new(metav1.NewTime(s.end().FinishedAt.Add(after)))
		s.Pod.DeletionGracePeriodSeconds = new(int64(0))
	}
}

func TestClassifyTakesTimesAndPlaces(t *testing.T) {
	t.Parallel()
	s := recorded(t, "exit-3")
	got := Classify(s).Update
	assert.Equal(t, s.Pod.Name, *got.PodName)
	assert.Equal(t, "rec", *got.Namespace)
	assert.Equal(t, "localhost", *got.InstanceDNS)
	assert.True(t, got.StartedAt.Equal(s.end().StartedAt.Time))
	assert.True(t, got.FinishedAt.Equal(s.end().FinishedAt.Time))

	got = Classify(recorded(t, "start-error")).Update
	assert.Nil(t, got.StartedAt, "the epoch is no start")
}

// TestClassifySparseObjects checks that no object is so bare that it stops whoever classifies it.
func TestClassifySparseObjects(t *testing.T) {
	t.Parallel()
	bare := []*corev1.Pod{nil}
	for _, phase := range []corev1.PodPhase{"", corev1.PodPending, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown} {
		bare = append(bare, &corev1.Pod{Status: corev1.PodStatus{Phase: phase}},
			&corev1.Pod{Status: corev1.PodStatus{Phase: phase, ContainerStatuses: []corev1.ContainerStatus{{}}}},
			&corev1.Pod{Status: corev1.PodStatus{Phase: phase, ContainerStatuses: []corev1.ContainerStatus{
				{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}, {Name: "another"},
			}}})
	}
	jobs := []*batchv1.Job{nil, {}}
	for _, kind := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed, batchv1.JobFailureTarget} {
		jobs = append(jobs, &batchv1.Job{Status: batchv1.JobStatus{Conditions: []batchv1.JobCondition{{Type: kind, Status: corev1.ConditionTrue}}}})
	}
	for _, pod := range bare {
		for _, j := range jobs {
			for flags := range 8 {
				s := Sighting{Job: j, Pod: pod, JobGone: flags&1 > 0, PodGone: flags&2 > 0, Asked: flags&4 > 0}
				assert.NotPanics(t, func() { Classify(s) }, "%+v", s)
			}
		}
	}
}
