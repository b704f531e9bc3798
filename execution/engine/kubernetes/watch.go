package kubernetes

import (
	"context"
	"errors"
	"strings"
	"sync"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
)

// watched is one kind of object that is watched.
type watched struct {
	name string
	kind runtime.Object
	// label is on the objects that are watched; empty for all.
	label string
	into  cache.ReflectorStore
}

// watchable is the client of one kind of object in a namespace.
type watchable[L runtime.Object] interface {
	List(ctx context.Context, o metav1.ListOptions) (L, error)
	Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
}

// follow keeps a store at what the cluster has until ctx ends. That the cluster cannot be read is logged once, and once
// more when it can; the library would log it with every try.
func follow[L runtime.Object](ctx context.Context, f *follower, objects watchable[L], w watched) error {
	doing := "watch " + w.name
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = w.label
			list, err := objects.List(ctx, o)
			f.outages.note(ctx, doing, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = w.label
			opened, err := objects.Watch(ctx, o)
			f.outages.note(ctx, doing, err)
			return opened, err
		},
	}
	reflector := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(source, f.cfg.Kube.Streams), w.kind, w.into,
		cache.ReflectorOptions{Name: f.cfg.Cluster.Name + " " + w.name})
	reflector.RunWithContext(klog.NewContext(ctx, klog.Logger{}))
	if ctx.Err() == nil {
		return errors.New("kubernetes: the watch ended by itself")
	}
	return nil
}

// store passes on what one reflector lists and watches, stripped. It keeps names only: a list after a gap also shows
// what went meanwhile.
type store[T metav1.Object] struct {
	seen func(obj T)
	// removed gets the object as it was last; nil if only its name is known.
	removed func(name string, last T)

	mu     sync.Mutex
	names  map[string]bool
	synced chan struct{} // closed with the first list
	once   sync.Once
}

var _ cache.TransformingStore = (*store[*corev1.Pod])(nil)

func newStore[T metav1.Object](seen func(obj T), removed func(name string, last T)) *store[T] {
	return &store[T]{seen: seen, removed: removed, names: map[string]bool{}, synced: make(chan struct{})}
}

func (s *store[T]) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) { return strip(obj), nil }
}

func (s *store[T]) Add(obj any) error {
	if o, ok := strip(obj).(T); ok {
		s.mu.Lock()
		s.names[o.GetName()] = true
		s.mu.Unlock()
		s.seen(o)
	}
	return nil
}

func (s *store[T]) Update(obj any) error { return s.Add(obj) }

func (s *store[T]) Delete(obj any) error {
	if o, ok := strip(obj).(T); ok {
		s.mu.Lock()
		delete(s.names, o.GetName())
		s.mu.Unlock()
		s.removed(o.GetName(), o)
	}
	return nil
}

func (s *store[T]) Replace(list []any, _ string) error {
	s.mu.Lock()
	gone := s.names
	s.names = make(map[string]bool, len(list))
	s.mu.Unlock()
	for _, obj := range list {
		_ = s.Add(obj)
		if o, ok := obj.(T); ok {
			delete(gone, o.GetName())
		}
	}
	var unknown T
	for name := range gone {
		s.removed(name, unknown)
	}
	s.once.Do(func() { close(s.synced) })
	return nil
}

func (s *store[T]) Resync() error { return nil }

// strip returns the part of a Job or pod that the follower looks at. Ten thousand whole ones, with their commands and
// environments, would take hundreds of megabytes.
func strip(obj any) any {
	switch o := obj.(type) {
	case *batchv1.Job:
		kept := &batchv1.Job{ObjectMeta: stripMeta(o.ObjectMeta), Status: batchv1.JobStatus{Conditions: o.Status.Conditions}}
		if containers := o.Spec.Template.Spec.Containers; len(containers) > 0 {
			kept.Spec.Template.Spec.Containers = []corev1.Container{{Resources: containers[0].Resources}}
		}
		return kept
	case *corev1.Pod:
		kept := &corev1.Pod{
			ObjectMeta: stripMeta(o.ObjectMeta),
			Spec:       corev1.PodSpec{NodeName: o.Spec.NodeName},
			Status:     corev1.PodStatus{Phase: o.Status.Phase, Reason: o.Status.Reason, Message: o.Status.Message},
		}
		for _, c := range o.Status.Conditions {
			if c.Type == corev1.PodScheduled || c.Type == corev1.DisruptionTarget {
				kept.Status.Conditions = append(kept.Status.Conditions, c)
			}
		}
		for _, c := range o.Status.ContainerStatuses {
			kept.Status.ContainerStatuses = append(kept.Status.ContainerStatuses, corev1.ContainerStatus{Name: c.Name, State: c.State})
		}
		return kept
	}
	return obj
}

func stripMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	kept := metav1.ObjectMeta{
		Name: strings.Clone(m.Name), Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp,
		DeletionGracePeriodSeconds: m.DeletionGracePeriodSeconds, Labels: map[string]string{},
	}
	for _, label := range []string{job.LabelRunID, labelJobName} {
		if value, ok := m.Labels[label]; ok {
			kept.Labels[label] = value
		}
	}
	if mark, ok := m.Annotations[annotationRecorded]; ok {
		kept.Annotations = map[string]string{annotationRecorded: mark}
	}
	return kept
}
