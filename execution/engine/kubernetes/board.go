package kubernetes

import (
	"cmp"
	"slices"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
	"github.com/stitchfix/flotilla-os/state"
)

// labelJobName is on every pod of a Job, in every version of Kubernetes that has Jobs.
const labelJobName = "job-name"

// annotationRecorded marks a Job whose end and log are recorded.
const annotationRecorded = "flotilla.stitchfix.com/recorded"

// keptLabels are those that the follower reads.
var keptLabels = []string{job.LabelRunID, labelJobName}

// board holds what is known of every attempt in the cluster, by the name of its Job. What the cluster says arrives
// through the stores of its reflectors; each change wakes the attempt in the queue.
type board struct {
	wake func(jobName string)

	mu       sync.Mutex
	attempts map[string]*attempt
	// early are events of what the other watches have not shown yet, by Job.
	early map[string][]state.PodEvent
}

// attempt is one Job and its pod, as last seen, and what was reported of it.
type attempt struct {
	jobName, runID string
	number         int64
	namespace      string

	seen         *batchv1.Job
	jobGone      bool
	pod          *corev1.Pod
	podGone      bool
	asked        bool // we had it deleted
	told         told
	over         bool // its end is recorded
	finished     bool // its log too
	logOver      bool // the log is whole, or there will be none
	logTries     int
	events       eventRing
	peak, stored usage
}

// told is what the observer was last told of an attempt.
type told struct {
	status       state.Status
	pod          string
	statusReason string
}

func newBoard(wake func(jobName string)) *board {
	return &board{wake: wake, attempts: map[string]*attempt{}, early: map[string][]state.PodEvent{}}
}

// at is the attempt of a Job, made where there is none; nil where the name is not that of a run's Job.
func (b *board) at(jobName, runID, namespace string) *attempt {
	if a := b.attempts[jobName]; a != nil {
		return a
	}
	number := job.Attempt(jobName, runID)
	if number == 0 {
		return nil
	}
	a := &attempt{jobName: jobName, runID: runID, number: number, namespace: namespace}
	b.attempts[jobName] = a
	for _, e := range b.early[jobName] {
		a.events.add(e, mostEarly)
	}
	delete(b.early, jobName)
	return a
}

// Bounds of what is kept of events that may turn out to be nobody's.
const (
	mostEarly     = 20
	mostEarlyJobs = 2000
)

// event adds an event to its attempt, and says whether it is new there.
func (b *board) event(jobName string, e state.PodEvent, most int) (isNew, over bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.attempts[jobName]
	if a == nil {
		if len(b.early) >= mostEarlyJobs {
			clear(b.early)
		}
		if len(b.early[jobName]) < mostEarly {
			b.early[jobName] = append(b.early[jobName], e)
			return true, false
		}
		return false, false
	}
	if a.finished {
		return false, true
	}
	isNew = a.events.add(e, most)
	a.events.urgent = a.events.urgent || isNew && !a.over && e.EventType == corev1.EventTypeWarning
	return isNew, a.over
}

func (b *board) jobSeen(j *batchv1.Job) {
	b.mu.Lock()
	a := b.at(j.Name, j.Labels[job.LabelRunID], j.Namespace)
	if a != nil {
		a.seen, a.jobGone = j, false
		// Marked by whoever recorded it; nothing is left to do.
		if j.Annotations[annotationRecorded] != "" {
			a.over, a.finished = true, true
		}
	}
	b.mu.Unlock()
	b.woken(a)
}

func (b *board) jobRemoved(name string) {
	b.mu.Lock()
	a := b.attempts[name]
	if a != nil {
		a.jobGone = true
		b.forget(a)
	}
	b.mu.Unlock()
	b.woken(a)
}

// podSeen keeps the newest pod. A Job of ours makes one; a second one means that the first was lost in a way that the
// Job controller does not count.
func (b *board) podSeen(pod *corev1.Pod) {
	b.mu.Lock()
	a := b.at(pod.Labels[labelJobName], pod.Labels[job.LabelRunID], pod.Namespace)
	if a != nil && (a.pod == nil || a.pod.UID == pod.UID || a.pod.CreationTimestamp.Before(&pod.CreationTimestamp)) {
		a.pod, a.podGone = pod, false
	}
	b.mu.Unlock()
	b.woken(a)
}

// podRemoved keeps the pod as it was last. last may be nil where only its name is known.
func (b *board) podRemoved(name string, last *corev1.Pod) {
	b.mu.Lock()
	a := b.attempts[jobOfPod(name)]
	if a != nil && a.pod != nil && a.pod.Name == name {
		if last != nil {
			a.pod = last
		}
		a.podGone = true
		b.forget(a)
	} else {
		a = nil
	}
	b.mu.Unlock()
	b.woken(a)
}

// forget drops an attempt that is over and of which the cluster has nothing any more.
func (b *board) forget(a *attempt) {
	if a.over && a.finished && (a.seen == nil || a.jobGone) && (a.pod == nil || a.podGone) {
		delete(b.attempts, a.jobName)
	}
}

func (b *board) woken(a *attempt) {
	if a != nil {
		b.wake(a.jobName)
	}
}

// ask notes that we have an attempt deleted, before it is.
func (b *board) ask(jobName string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.attempts[jobName]; a != nil {
		a.asked = true
	}
}

// get copies an attempt; what it points to is never changed.
func (b *board) get(jobName string) (attempt, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.attempts[jobName]
	if a == nil {
		return attempt{}, false
	}
	copied := *a
	copied.events.list = slices.Clone(a.events.list)
	return copied, true
}

// change lets do alter an attempt, and drops it where nothing is left of it.
func (b *board) change(jobName string, do func(a *attempt)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.attempts[jobName]; a != nil {
		do(a)
		b.forget(a)
	}
}

// knows is whether the cluster has anything of an attempt.
func (b *board) knows(jobName string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.attempts[jobName]
	return a != nil && (a.seen != nil || a.pod != nil)
}

// living maps the attempts that are not over: Jobs by run.
func (b *board) living() map[string]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	found := map[string]string{}
	for jobName, a := range b.attempts {
		if !a.over && (a.seen != nil || a.pod != nil) {
			found[a.runID] = jobName
		}
	}
	return found
}

// sighting is what package adapter classifies.
func (a *attempt) sighting(now time.Time, pullDeadline time.Duration) job.Sighting {
	return job.Sighting{
		Job: a.seen, JobGone: a.jobGone, Pod: a.pod, PodGone: a.podGone, Asked: a.asked,
		Container: a.runID, PullDeadline: pullDeadline, Now: now,
	}
}

// started is whether the attempt's container ever ran, so that there may be a log.
func (a *attempt) started() bool {
	if a.pod == nil {
		return false
	}
	for _, c := range a.pod.Status.ContainerStatuses {
		if c.State.Running != nil || c.State.Terminated != nil {
			return true
		}
	}
	return false
}

// alive is whether the attempt's pod has not ended.
func (a *attempt) alive() bool {
	return a.pod != nil && !a.podGone && a.pod.Status.Phase != corev1.PodSucceeded && a.pod.Status.Phase != corev1.PodFailed
}

func byAge(pods []corev1.Pod) {
	slices.SortFunc(pods, func(x, y corev1.Pod) int {
		if c := x.CreationTimestamp.Compare(y.CreationTimestamp.Time); c != 0 {
			return c
		}
		return cmp.Compare(x.Name, y.Name)
	})
}
