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

// Bounds of the events that are kept for attempts that were not seen yet.
const (
	mostEarly     = 20
	mostEarlyJobs = 2000
)

// attempts holds what is known of every attempt in the cluster, by the name of its Job. The watches write to it, and
// each change wakes the attempt.
type attempts struct {
	// wake queues the attempt of a Job to be reported.
	wake func(jobName string)
	// scaledUp counts that the cluster was enlarged for an attempt.
	scaledUp func()

	mu    sync.Mutex
	byJob map[string]*attempt
	// early holds events of what the other watches have not shown yet, by Job.
	early map[string][]state.PodEvent
}

// attempt is one Job and its pod, as last seen, and what was reported of it.
type attempt struct {
	jobName, runID string
	number         int64
	namespace      string

	job          *batchv1.Job
	jobGone      bool
	pod          *corev1.Pod
	podGone      bool
	asked        bool // we had it deleted
	lastReported report
	over         bool // its end is recorded
	finished     bool // its log too
	logOver      bool // the log is whole, or there will be none
	logTries     int
	events       eventRing
	peak, stored state.Size // the greatest use, and what is stored of it
}

// report is what the observer was last told of an attempt.
type report struct {
	status       state.Status
	pod          string
	statusReason string
}

func newAttempts(wake func(jobName string), scaledUp func()) *attempts {
	return &attempts{
		wake: wake, scaledUp: scaledUp, byJob: map[string]*attempt{}, early: map[string][]state.PodEvent{},
	}
}

// at returns the attempt of a Job, new if there was none, or nil if the name is not that of a run's Job.
func (as *attempts) at(jobName, runID, namespace string) *attempt {
	if a := as.byJob[jobName]; a != nil {
		return a
	}
	number := job.Attempt(jobName, runID)
	if number == 0 {
		return nil
	}
	a := &attempt{jobName: jobName, runID: runID, number: number, namespace: namespace}
	as.byJob[jobName] = a
	for _, e := range as.early[jobName] {
		as.add(a, e, mostEarly)
	}
	delete(as.early, jobName)
	return a
}

// event adds an event to its attempt, or keeps it until the attempt is seen. It reports whether the event is a warning
// that is worth a report. Most events of a cluster belong to no run; they count nowhere.
func (as *attempts) event(jobName string, e state.PodEvent, most int) (urgent bool) {
	as.mu.Lock()
	defer as.mu.Unlock()
	if a := as.byJob[jobName]; a != nil {
		return as.add(a, e, most)
	}
	if len(as.early) >= mostEarlyJobs {
		clear(as.early)
	}
	if len(as.early[jobName]) < mostEarly {
		as.early[jobName] = append(as.early[jobName], e)
	}
	return false
}

func (as *attempts) add(a *attempt, e state.PodEvent, most int) (urgent bool) {
	if a.finished || !a.events.add(e, most) || a.over {
		return false
	}
	if e.Reason == reasonScaleUp {
		as.scaledUp()
	}
	urgent = e.EventType == corev1.EventTypeWarning
	a.events.urgent = a.events.urgent || urgent
	return urgent
}

// jobSeen stores a Job. A Job that is marked as recorded is over and finished.
func (as *attempts) jobSeen(j *batchv1.Job) {
	as.seen(func() *attempt {
		a := as.at(j.Name, j.Labels[job.LabelRunID], j.Namespace)
		if a == nil {
			return nil
		}
		a.job, a.jobGone = j, false
		if j.Annotations[annotationRecorded] != "" {
			a.over, a.finished = true, true
		}
		return a
	})
}

func (as *attempts) jobRemoved(name string, _ *batchv1.Job) {
	as.seen(func() *attempt {
		a := as.byJob[name]
		if a != nil {
			a.jobGone = true
		}
		return a
	})
}

// podSeen stores the attempt's newest pod. A Job of ours makes one pod; a second one means that the first was lost in a
// way that the Job controller does not count.
func (as *attempts) podSeen(pod *corev1.Pod) {
	as.seen(func() *attempt {
		a := as.at(pod.Labels[labelJobName], pod.Labels[job.LabelRunID], pod.Namespace)
		if a != nil && (a.pod == nil || a.pod.UID == pod.UID || a.pod.CreationTimestamp.Before(&pod.CreationTimestamp)) {
			a.pod, a.podGone = pod, false
		}
		return a
	})
}

// podRemoved keeps the pod as it was last; last may be nil if only its name is known.
func (as *attempts) podRemoved(name string, last *corev1.Pod) {
	as.seen(func() *attempt {
		a := as.byJob[jobOfPod(name)]
		if a == nil || a.pod == nil || a.pod.Name != name {
			return nil
		}
		if last != nil {
			a.pod = last
		}
		a.podGone = true
		return a
	})
}

// seen applies a change that the cluster showed and wakes the attempt that it changed, if any.
func (as *attempts) seen(change func() *attempt) {
	as.mu.Lock()
	a := change()
	if a != nil {
		as.forget(a)
	}
	as.mu.Unlock()
	if a != nil {
		as.wake(a.jobName)
	}
}

// forget drops an attempt that is finished and of which the cluster has nothing any more.
func (as *attempts) forget(a *attempt) {
	if a.over && a.finished && (a.job == nil || a.jobGone) && (a.pod == nil || a.podGone) {
		delete(as.byJob, a.jobName)
	}
}

// get returns a copy of an attempt; what it points to never changes.
func (as *attempts) get(jobName string) (attempt, bool) {
	as.mu.Lock()
	defer as.mu.Unlock()
	a := as.byJob[jobName]
	if a == nil {
		return attempt{}, false
	}
	copied := *a
	copied.events.list = slices.Clone(a.events.list)
	return copied, true
}

// change applies a change of ours to an attempt, if it is known.
func (as *attempts) change(jobName string, do func(a *attempt)) {
	as.mu.Lock()
	defer as.mu.Unlock()
	if a := as.byJob[jobName]; a != nil {
		do(a)
		as.forget(a)
	}
}

// knows reports whether the cluster has shown a Job or its pod.
func (as *attempts) knows(jobName string) bool {
	as.mu.Lock()
	defer as.mu.Unlock()
	a := as.byJob[jobName]
	return a != nil && (a.job != nil || a.pod != nil)
}

// living returns the Jobs of the attempts that are not over, by run.
func (as *attempts) living() map[string]string {
	as.mu.Lock()
	defer as.mu.Unlock()
	found := map[string]string{}
	for name, a := range as.byJob {
		if !a.over && (a.job != nil || a.pod != nil) {
			found[a.runID] = name
		}
	}
	return found
}

// started reports whether the attempt's container ever ran, so that it may have a log.
func (a *attempt) started() bool {
	return a.pod != nil && slices.ContainsFunc(a.pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		return c.State.Running != nil || c.State.Terminated != nil
	})
}

// alive reports whether the attempt has a pod that has not ended.
func (a *attempt) alive() bool {
	return a.pod != nil && !a.podGone && a.pod.Status.Phase != corev1.PodSucceeded && a.pod.Status.Phase != corev1.PodFailed
}

// eventRing holds the newest events of an attempt, each once, oldest first.
type eventRing struct {
	list []state.PodEvent
	// dirty: something is not stored yet. urgent: it is worth an update of its own.
	dirty, urgent bool
}

// add keeps an event and reports whether it is new. Of two events that say the same of the same object it keeps the
// later one.
func (r *eventRing) add(e state.PodEvent, most int) (isNew bool) {
	for i, old := range r.list {
		if old.Reason == e.Reason && old.Message == e.Message && old.SourceObject == e.SourceObject {
			r.list[i] = e
			return false
		}
	}
	r.list = append(r.list, e)
	nanos := func(t *time.Time) int64 {
		if t == nil {
			return 0
		}
		return t.UnixNano()
	}
	slices.SortStableFunc(r.list, func(a, b state.PodEvent) int {
		return cmp.Compare(nanos(a.Timestamp), nanos(b.Timestamp))
	})
	r.list = r.list[max(0, len(r.list)-max(1, most)):]
	r.dirty = true
	return true
}

// newest returns up to most events, oldest first; nil if there are none.
func (r *eventRing) newest(most int) state.PodEvents {
	if len(r.list) == 0 || most == 0 {
		return nil
	}
	return slices.Clone(r.list[max(0, len(r.list)-most):])
}
