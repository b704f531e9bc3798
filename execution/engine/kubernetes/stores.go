package kubernetes

import (
	"sync"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// store takes what one reflector lists and watches and passes it on, stripped. A list after a gap also says what has
// gone meanwhile. It keeps names only; the board keeps the rest.
type store struct {
	seen    func(obj any)
	removed func(name string, last any)

	mu     sync.Mutex
	names  map[string]bool
	synced chan struct{} // closed with the first list
	once   sync.Once
}

var _ cache.TransformingStore = (*store)(nil)

func newStore(seen func(obj any), removed func(name string, last any)) *store {
	return &store{seen: seen, removed: removed, names: map[string]bool{}, synced: make(chan struct{})}
}

func (s *store) Transformer() cache.TransformFunc { return stripObject }

func (s *store) Add(obj any) error {
	obj, err := stripObject(obj)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.names[nameOf(obj)] = true
	s.mu.Unlock()
	s.seen(obj)
	return nil
}

func (s *store) Update(obj any) error { return s.Add(obj) }

func (s *store) Delete(obj any) error {
	obj, err := stripObject(obj)
	if err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.names, nameOf(obj))
	s.mu.Unlock()
	s.removed(nameOf(obj), obj)
	return nil
}

func (s *store) Replace(list []any, _ string) error {
	s.mu.Lock()
	gone := s.names
	s.names = make(map[string]bool, len(list))
	s.mu.Unlock()
	for _, obj := range list {
		if err := s.Add(obj); err != nil {
			return err
		}
		delete(gone, nameOf(obj))
	}
	for name := range gone {
		s.removed(name, nil)
	}
	s.once.Do(func() { close(s.synced) })
	return nil
}

func (s *store) Resync() error { return nil }

func nameOf(obj any) string {
	switch o := obj.(type) {
	case *batchv1.Job:
		return o.Name
	case *corev1.Pod:
		return o.Name
	case *corev1.Event:
		return o.Name
	}
	return ""
}

func (b *board) jobStore() *store {
	return newStore(
		func(obj any) {
			if j, ok := obj.(*batchv1.Job); ok {
				b.jobSeen(j)
			}
		},
		func(name string, _ any) { b.jobRemoved(name) })
}

func (b *board) podStore() *store {
	return newStore(
		func(obj any) {
			if pod, ok := obj.(*corev1.Pod); ok {
				b.podSeen(pod)
			}
		},
		func(name string, last any) {
			pod, _ := last.(*corev1.Pod)
			b.podRemoved(name, pod)
		})
}
