package kubernetes

import (
	"cmp"
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
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// warningDelay gathers warnings, so that a pod that fails in a loop costs few updates.
const warningDelay = 3 * time.Second

// reasonScaleUp is what the cluster autoscaler says of a pod for whose sake it adds a node.
const reasonScaleUp = "TriggeredScaleUp"

// eventRing holds the newest events of an attempt, each once.
type eventRing struct {
	list []state.PodEvent
	// dirty says that something is not stored yet; urgent, that it is worth an update of its own.
	dirty, urgent bool
}

// add keeps an event; of two that say the same of the same object, the later one.
func (r *eventRing) add(e state.PodEvent, most int) (isNew bool) {
	for i, old := range r.list {
		if old.Reason == e.Reason && old.Message == e.Message && old.SourceObject == e.SourceObject {
			r.list[i] = e
			return false
		}
	}
	r.list = append(r.list, e)
	slices.SortStableFunc(r.list, func(a, b state.PodEvent) int { return compareTimes(a.Timestamp, b.Timestamp) })
	r.list = r.list[max(0, len(r.list)-max(1, most)):]
	r.dirty = true
	return true
}

// all are the newest ones, oldest first; nil where there are none.
func (r *eventRing) all(most int) state.PodEvents {
	if len(r.list) == 0 || most == 0 {
		return nil
	}
	return slices.Clone(r.list[max(0, len(r.list)-most):])
}

func compareTimes(a, b *time.Time) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return -1
	case b == nil:
		return 1
	}
	return cmp.Compare(a.UnixNano(), b.UnixNano())
}

// eventSink passes events on to their attempts and keeps none itself.
type eventSink struct{ *follower }

var _ cache.ReflectorStore = (*eventSink)(nil)

func (s *eventSink) Add(obj any) error {
	if event, ok := obj.(*corev1.Event); ok {
		s.event(event)
	}
	return nil
}

func (s *eventSink) Update(obj any) error { return s.Add(obj) }

// Delete ignores that events are forgotten by the cluster.
func (s *eventSink) Delete(any) error { return nil }

func (s *eventSink) Replace(list []any, _ string) error {
	for _, obj := range list {
		_ = s.Add(obj)
	}
	return nil
}

func (s *eventSink) Resync() error { return nil }

func (f *follower) event(e *corev1.Event) {
	jobName := e.InvolvedObject.Name
	switch e.InvolvedObject.Kind {
	case "Pod":
		jobName = jobOfPod(jobName)
	case "Job":
	default:
		return
	}
	isNew, over := f.board.event(jobName, podEvent(e), f.cfg.EKS.MaxPodEvents)
	if isNew && !over && e.Reason == reasonScaleUp {
		f.count(metrics.EngineEKSTriggeredScaleUp)
	}
	if isNew && !over && e.Type == corev1.EventTypeWarning {
		f.reports.AddAfter(jobName, warningDelay)
	}
}

// jobOfPod is the Job that a pod of that name belongs to: its pods' names are its own and a random end.
func jobOfPod(pod string) string {
	if cut := strings.LastIndexByte(pod, '-'); cut > 0 {
		return pod[:cut]
	}
	return pod
}

func podEvent(e *corev1.Event) state.PodEvent {
	return state.PodEvent{
		Timestamp: eventTime(e), EventType: e.Type, Reason: e.Reason,
		SourceObject: e.InvolvedObject.Name, Message: e.Message,
	}
}

func eventTime(e *corev1.Event) *time.Time {
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
	return &at
}

// Events asks the cluster for the newest events of the run's pods and Jobs.
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
			failed = append(failed, fmt.Errorf("listing events: %w", err))
			continue
		}
		for i := range list.Items {
			ring.add(podEvent(&list.Items[i]), e.cfg.EKS.MaxPodEvents)
		}
	}
	found := ring.all(e.cfg.EKS.MaxPodEvents)
	if found == nil {
		return state.PodEvents{}, errors.Join(failed...)
	}
	return found, nil
}
