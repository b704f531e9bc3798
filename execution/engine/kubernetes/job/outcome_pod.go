package job

import (
	"fmt"
	"regexp"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/state"
)

// Reasons that Kubernetes gives for the state of a container or pod; it exports no constants for them.
const (
	reasonImagePullBackOff = "ImagePullBackOff"
	reasonInvalidImageName = "InvalidImageName"
	reasonNeverPull        = "ErrImageNeverPull"
	reasonConfigError      = "CreateContainerConfigError"
	reasonCreateError      = "CreateContainerError"
	reasonRunError         = "RunContainerError"
	reasonStatusUnknown    = "ContainerStatusUnknown"
	reasonPodDeadline      = "DeadlineExceeded"
	reasonDeletedPod       = "The pod was deleted from the cluster."
)

// ended classifies a pod whose phase is Succeeded or Failed. A memory kill is one whatever else happened to the pod. What
// the cluster did to the pod counts only if it came before the container's own end.
func (s Sighting) ended() Outcome {
	pod, end := s.Pod, s.terminated()
	switch {
	case end != nil && end.Reason == state.ReasonOOMKilled && end.ExitCode != 0:
		return stopped(end, int64(end.ExitCode), state.ReasonOOMKilled)
	case pod.Status.Reason == reasonPodDeadline, s.pastDeadline():
		return s.deadline()
	case pod.Status.Phase == corev1.PodSucceeded:
		return s.success(end)
	case pod.Status.Reason != "": // Evicted, Preempting, OutOfcpu, UnexpectedAdmissionError, NodeLost, …
		return s.lostToCluster(worded(pod.Status.Reason, pod.Status.Message))
	case end == nil:
		return s.lostToCluster(s.disruption("The pod ended before its container started."))
	case end.Reason == reasonStatusUnknown:
		return s.lostToCluster(s.disruption(worded(end.Reason, end.Message)))
	case end.ExitCode == 0: // another container of the pod failed
		return s.success(end)
	case s.disrupted(end):
		return s.lostToCluster(s.disruption(reasonDeletedPod))
	}
	return stopped(end, int64(end.ExitCode), worded(end.Reason, end.Message))
}

func (s Sighting) success(end *corev1.ContainerStateTerminated) Outcome {
	reason := fmt.Sprintf("Pod %s Exited Successfully", s.Pod.Name)
	if end == nil {
		return Outcome{Status: state.StatusStopped, Update: state.RunUpdate{ExitCode: new(int64(0)), ExitReason: &reason}}
	}
	if end.Reason == state.ReasonOOMKilled {
		reason += "; a child process was OOMKilled"
	}
	return stopped(end, 0, reason)
}

// stopped is the container's own end.
func stopped(end *corev1.ContainerStateTerminated, code int64, reason string) Outcome {
	return Outcome{Status: state.StatusStopped, Update: state.RunUpdate{
		ExitCode: &code, ExitReason: &reason,
		StartedAt: timeOf(end.StartedAt), FinishedAt: timeOf(end.FinishedAt),
	}}
}

// disrupted reports whether the pod was told to end before its container did, by the cluster or by a deletion. Times are
// whole seconds. In doubt it was the cluster: a code that is the command's own returns with the next attempt.
func (s Sighting) disrupted(end *corev1.ContainerStateTerminated) bool {
	if at := s.deletionAsked(); at != nil && !end.FinishedAt.Time.Before(*at) {
		return true
	}
	c := s.disruptionTarget()
	return c != nil && !end.FinishedAt.Time.Before(c.LastTransitionTime.Time)
}

// finalDeletion is the longest time between a container's end and the removal of its pod that is being deleted. The node
// removes it by a deletion of its own, without grace, which overwrites when the deletion was ordered.
const finalDeletion = 30 * time.Second

// deletionAsked returns when the deletion was ordered: a pod's deletionTimestamp is when its grace ends.
func (s Sighting) deletionAsked() *time.Time {
	at := s.Pod.DeletionTimestamp
	if at == nil {
		return nil
	}
	grace := finalDeletion
	if seconds := s.Pod.DeletionGracePeriodSeconds; seconds != nil && *seconds > 0 {
		grace = time.Duration(*seconds) * time.Second
	}
	return new(at.Add(-grace))
}

func (s Sighting) disruptionTarget() *corev1.PodCondition {
	return podCondition(s.Pod, corev1.DisruptionTarget, corev1.ConditionTrue)
}

// disruption returns what the cluster says of the disruption, or the other text if it says nothing.
func (s Sighting) disruption(other string) string {
	if c := s.disruptionTarget(); c != nil {
		return worded(c.Reason, c.Message)
	}
	return other
}

// waiting classifies a pod whose container has not started.
func (s Sighting) waiting() Outcome {
	scheduled := podCondition(s.Pod, corev1.PodScheduled, corev1.ConditionTrue)
	if scheduled == nil {
		o := Outcome{Status: state.StatusPending}
		if c := podCondition(s.Pod, corev1.PodScheduled, corev1.ConditionFalse); c != nil && c.Message != "" {
			o.Update.StatusReason = new(worded(c.Reason, c.Message))
		}
		return o
	}
	var why corev1.ContainerStateWaiting
	if c := s.container(); c != nil && c.State.Waiting != nil {
		why = *c.State.Waiting
	}
	text := worded(why.Reason, why.Message)
	left := s.PullDeadline - s.Now.Sub(scheduled.LastTransitionTime.Time)
	switch {
	case why.Reason == reasonInvalidImageName, why.Reason == reasonNeverPull,
		why.Reason == reasonImagePullBackOff && wrongImage(why.Message):
		return neverStarted(text)
	case left > 0:
		o := Outcome{Status: state.StatusPending, Again: left}
		if why.Message != "" {
			o.Update.StatusReason = &text
		}
		return o
	case why.Reason == reasonConfigError, why.Reason == reasonCreateError, why.Reason == reasonRunError:
		return neverStarted(text)
	case text == "":
		text = "nothing is known of its container"
	}
	return s.lostToCluster(fmt.Sprintf("The container did not start within %s: %s", s.PullDeadline, text))
}

// neverStarted is the end of a run that no cluster could start.
func neverStarted(reason string) Outcome {
	return Outcome{Status: state.StatusStopped, Remove: true, Update: state.RunUpdate{
		ExitCode: new(state.ExitCodeNeverStarted), ExitReason: &reason,
	}}
}

// grpcCode finds the code in the text of a gRPC error; a container runtime's errors reach a pod's status in that form.
var grpcCode = regexp.MustCompile(`\bcode = ([A-Za-z]+)\b`)

// wrongImage reports whether the registry answered that there is no such image. Everything else, such as a registry that
// does not answer or wants another password, may pass.
func wrongImage(message string) bool {
	found := grpcCode.FindStringSubmatch(message)
	return found != nil && (found[1] == "NotFound" || found[1] == "InvalidArgument")
}

// container returns the status of the run's container, or nil.
func (s Sighting) container() *corev1.ContainerStatus {
	all := s.Pod.Status.ContainerStatuses
	for i := range all {
		if all[i].Name == s.Container {
			return &all[i]
		}
	}
	if len(all) == 1 {
		return &all[0]
	}
	return nil
}

func (s Sighting) terminated() *corev1.ContainerStateTerminated {
	if s.Pod == nil {
		return nil
	}
	if c := s.container(); c != nil {
		return c.State.Terminated
	}
	return nil
}

func podCondition(pod *corev1.Pod, kind corev1.PodConditionType, status corev1.ConditionStatus) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == kind && c.Status == status {
			return c
		}
	}
	return nil
}

// worded joins a reason and its message.
func worded(reason, message string) string {
	switch {
	case message == "":
		return reason
	case reason == "":
		return message
	}
	return reason + ": " + message
}

// timeOf returns nil for no time, and for the epoch, which means "never" in a container that could not start.
func timeOf(t metav1.Time) *time.Time {
	if t.IsZero() || t.Unix() <= 0 {
		return nil
	}
	return new(t.UTC())
}
