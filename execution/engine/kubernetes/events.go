package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"

	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
	"github.com/stitchfix/flotilla-os/state"
)

// warningDelay gathers warnings, so that a pod that fails in a loop costs few updates.
const warningDelay = 3 * time.Second

// reasonScaleUp is the cluster autoscaler's event of a pod for which it adds a node.
const reasonScaleUp = "TriggeredScaleUp"

// eventSink passes events on to their attempts and keeps none itself.
type eventSink struct{ *follower }

var _ cache.ReflectorStore = eventSink{}

func (s eventSink) Add(obj any) error {
	e, ok := obj.(*corev1.Event)
	if !ok {
		return nil
	}
	jobName := e.InvolvedObject.Name
	switch e.InvolvedObject.Kind {
	case "Pod":
		jobName = jobOfPod(jobName)
	case "Job":
	default:
		return nil
	}
	if s.attempts.event(jobName, podEvent(e), s.cfg.EKS.MaxPodEvents) {
		s.reports.AddAfter(jobName, warningDelay)
	}
	return nil
}

func (s eventSink) Update(obj any) error { return s.Add(obj) }

// Delete ignores that the cluster forgets events.
func (s eventSink) Delete(any) error { return nil }

func (s eventSink) Replace(list []any, _ string) error {
	for _, obj := range list {
		_ = s.Add(obj)
	}
	return nil
}

func (s eventSink) Resync() error { return nil }

// jobOfPod returns the name of the Job that makes pods of that name: their names are its own with a random end.
func jobOfPod(pod string) string {
	if cut := strings.LastIndexByte(pod, '-'); cut > 0 {
		return pod[:cut]
	}
	return pod
}

// podEvent converts an event. Its time is the latest that it holds: newer clients of the API fill in other fields.
func podEvent(e *corev1.Event) state.PodEvent {
	at := e.LastTimestamp.Time
	switch {
	case e.Series != nil && e.Series.LastObservedTime.After(at):
		at = e.Series.LastObservedTime.Time
	case at.IsZero():
		at = e.EventTime.Time
	}
	if at.IsZero() {
		at = e.CreationTimestamp.Time
	}
	return state.PodEvent{
		Timestamp: &at, EventType: e.Type, Reason: e.Reason, SourceObject: e.InvolvedObject.Name, Message: e.Message,
	}
}

// Events returns the newest events of the run's pods and of its attempt's Job, as the cluster has them now.
func (e *Engine) Events(ctx context.Context, run state.Run) (state.PodEvents, error) {
	names, err := e.podsOf(ctx, e.namespaceOf(run), job.LabelRunID+"="+job.SanitizeLabel(run.RunID))
	if err != nil {
		return nil, err
	}
	if run.PodName != nil && !slices.Contains(names, *run.PodName) {
		names = append(names, *run.PodName)
	}
	names = append(names, job.Name(run))
	var ring eventRing
	var failed []error
	for _, name := range names {
		list, err := e.cfg.Kube.Client.CoreV1().Events(e.namespaceOf(run)).List(ctx,
			metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("involvedObject.name", name).String()})
		if err != nil {
			failed = append(failed, fmt.Errorf("list events: %w", err))
			continue
		}
		for i := range list.Items {
			ring.add(podEvent(&list.Items[i]), e.cfg.EKS.MaxPodEvents)
		}
	}
	if found := ring.newest(e.cfg.EKS.MaxPodEvents); found != nil {
		return found, nil // some are better than none
	}
	return state.PodEvents{}, errors.Join(failed...)
}
