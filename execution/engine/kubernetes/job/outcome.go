package job

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/state"
)

// silentNode is how long after its grace period a pod that is being deleted counts as lost: its node does not respond.
const silentNode = time.Minute

// settle is how long the watch of pods may lag behind that of Jobs.
const settle = 5 * time.Second

// Sighting is all that is known of one attempt at one moment.
type Sighting struct {
	// Job is nil if it was never seen.
	Job *batchv1.Job
	// JobGone reports that the Job was removed; Job is how it was last.
	JobGone bool
	// Pod is the attempt's newest pod, nil if none was ever seen.
	Pod *corev1.Pod
	// PodGone reports that the pod was removed; Pod is how it was last.
	PodGone bool
	// Asked reports that we had it deleted, after its run was stopped.
	Asked bool
	// Container is the name of the run's container; others may be injected.
	Container string
	// PullDeadline bounds the time from a pod's arrival on its node to its container's start.
	PullDeadline time.Duration
	Now          time.Time
}

// Outcome is the meaning of a Sighting for the run.
type Outcome struct {
	// Status is where the attempt stands; empty if that is not known yet, or no longer matters.
	Status state.Status
	Update state.RunUpdate
	// Remove reports that the attempt is over while its pod may still run: delete the Job and the pod.
	Remove bool
	// Again is when to classify again even if nothing changes; 0 for never.
	Again time.Duration
}

// Classify decides where an attempt stands; docs/kubernetes-status.md shows the same as a table. In this order:
//
//   - A pod that has ended shows how (ended): its container's own code, or that the cluster took it away.
//   - A Job that has ended without a pod: complete is success. Failed is a failure of the cluster if the pod was seen to
//     go, else of unknown code, because a failure that may be the user's own is never retried.
//   - A pod or Job that was removed before its end, and not by us, is a failure of the cluster.
//   - A pod that waits for its container is PENDING until the wait can have no end (waiting).
//
// Failures of the cluster are NEEDS_RETRY; their codes are not the command's and are not recorded.
func Classify(s Sighting) Outcome {
	if s.Pod == nil {
		return s.withoutPod()
	}
	o := s.withPod()
	if o.Status != "" {
		o.Update.PodName, o.Update.Namespace = &s.Pod.Name, &s.Pod.Namespace
		if node := s.Pod.Spec.NodeName; node != "" {
			o.Update.InstanceDNS = &node
		}
	}
	return o
}

func (s Sighting) withPod() Outcome {
	pod := s.Pod
	ended := pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
	switch {
	case ended:
		return s.ended()
	case s.PodGone:
		return s.lostToCluster(s.removed())
	case s.pastDeadline():
		return s.deadline()
	case pod.DeletionTimestamp != nil:
		silent := s.Now.Sub(pod.DeletionTimestamp.Time)
		if silent < silentNode {
			return Outcome{Again: silentNode - silent}
		}
		return s.lostToCluster(fmt.Sprintf("The pod was told to end, and its node %s does not answer.", pod.Spec.NodeName))
	}
	c := s.container()
	switch {
	case c != nil && c.State.Running != nil:
		return running(c.State.Running.StartedAt)
	case c == nil || c.State.Terminated == nil:
		return s.waiting()
	case pod.Status.Phase == corev1.PodRunning:
		return running(c.State.Terminated.StartedAt)
	}
	// The container ended before the pod's phase followed; the phase will show whether that was its own end.
	return Outcome{}
}

func running(since metav1.Time) Outcome {
	return Outcome{Status: state.StatusRunning, Update: state.RunUpdate{StartedAt: timeOf(since)}}
}

// withoutPod classifies by the Job alone.
func (s Sighting) withoutPod() Outcome {
	switch {
	case s.Job == nil:
		return Outcome{}
	case s.pastDeadline():
		return s.deadline()
	case Ended(s.Job):
		end := s.jobEnd()
		if end != nil && !s.JobGone && s.Now.Sub(*end) < settle {
			return Outcome{Again: settle - s.Now.Sub(*end)} // its pod may still come into sight
		}
		u := state.RunUpdate{FinishedAt: end}
		if jobCondition(s.Job, batchv1.JobComplete) != nil {
			u.ExitCode, u.ExitReason = new(int64(0)), new(fmt.Sprintf("Job %s Exited Successfully", s.Job.Name))
		} else {
			u.ExitReason = new("The Job failed, and its pod is gone: the exit code is not known.")
		}
		return Outcome{Status: state.StatusStopped, Update: u}
	case s.JobGone:
		return s.lostToCluster(s.removed())
	}
	return Outcome{Status: state.StatusPending}
}

// removed returns the reason of what was taken out of the cluster before its own end, and not by us.
func (s Sighting) removed() string {
	if s.JobGone {
		return "The Job was deleted from the cluster."
	}
	return reasonDeletedPod
}

// lostToCluster is a failure of the infrastructure, after which another attempt is made. If we had the pod deleted, the
// run is STOPPED already, with its code and reason.
func (s Sighting) lostToCluster(reason string) Outcome {
	if s.Asked {
		return Outcome{Status: state.StatusStopped}
	}
	o := Outcome{Status: state.StatusNeedsRetry, Update: state.RunUpdate{ExitReason: &reason}, Remove: !s.JobGone}
	if t := s.terminated(); t != nil {
		o.Update.StartedAt = timeOf(t.StartedAt)
	}
	return o
}

func (s Sighting) deadline() Outcome {
	o := Outcome{Status: state.StatusStopped, Remove: true, Update: state.RunUpdate{
		ExitCode: new(state.ExitCodeDeadline), ExitReason: new(reasonDeadline),
	}}
	if t := s.terminated(); t != nil {
		o.Update.StartedAt, o.Update.FinishedAt = timeOf(t.StartedAt), timeOf(t.FinishedAt)
	}
	return o
}

// reasonDeadline is Kubernetes' reason and its meaning.
const reasonDeadline = batchv1.JobReasonDeadlineExceeded + ": the run was active for longer than its deadline allows."

// pastDeadline reports whether the Job failed because its deadline passed, or will as soon as its pod has ended.
func (s Sighting) pastDeadline() bool {
	for _, kind := range []batchv1.JobConditionType{batchv1.JobFailureTarget, batchv1.JobFailed} {
		if c := jobCondition(s.Job, kind); c != nil && c.Reason == batchv1.JobReasonDeadlineExceeded {
			return true
		}
	}
	return false
}

// Ended reports whether a Job has finished, successfully or not.
func Ended(job *batchv1.Job) bool {
	return jobCondition(job, batchv1.JobComplete) != nil || jobCondition(job, batchv1.JobFailed) != nil
}

func (s Sighting) jobEnd() *time.Time {
	for _, kind := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if c := jobCondition(s.Job, kind); c != nil {
			return timeOf(c.LastTransitionTime)
		}
	}
	return nil
}

func jobCondition(job *batchv1.Job, kind batchv1.JobConditionType) *batchv1.JobCondition {
	if job == nil {
		return nil
	}
	for i := range job.Status.Conditions {
		if c := &job.Status.Conditions[i]; c.Type == kind && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}
