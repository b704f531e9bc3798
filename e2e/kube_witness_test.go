//go:build kube

package e2e

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/stitchfix/flotilla-os/clients/kube/kubetest"
)

// witness sees every Job and every pod that there ever was in a namespace, by a way to the API server of its own.
type witness struct {
	mu   sync.Mutex
	jobs map[string]map[types.UID]bool // by the Job's name
	pods map[string]map[types.UID]bool // by the name of their Job
	// ended is when a pod was first seen to have ended, by the name of its Job.
	ended map[string]time.Time
}

func newWitness(t testing.TB, namespace string) *witness {
	t.Helper()
	w := &witness{
		jobs: map[string]map[types.UID]bool{}, pods: map[string]map[types.UID]bool{}, ended: map[string]time.Time{},
	}
	factory := informers.NewSharedInformerFactoryWithOptions(kubetest.Whole(t), 0, informers.WithNamespace(namespace))
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(seen any) { w.note(seen) },
		UpdateFunc: func(_, seen any) { w.note(seen) },
	}
	for _, informer := range []cache.SharedIndexInformer{
		factory.Batch().V1().Jobs().Informer(), factory.Core().V1().Pods().Informer(),
	} {
		_, err := informer.AddEventHandler(handler)
		require.NoError(t, err)
	}
	stop := make(chan struct{})
	factory.Start(stop)
	t.Cleanup(func() {
		close(stop)
		factory.Shutdown()
	})
	factory.WaitForCacheSync(t.Context().Done())
	return w
}

func (w *witness) note(seen any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch seen := seen.(type) {
	case *batchv1.Job:
		add(w.jobs, seen.Name, seen.UID)
	case *corev1.Pod:
		job := seen.Labels[batchv1.JobNameLabel]
		add(w.pods, job, seen.UID)
		over := seen.Status.Phase == corev1.PodSucceeded || seen.Status.Phase == corev1.PodFailed
		if _, known := w.ended[job]; over && !known {
			w.ended[job] = time.Now()
		}
	}
}

func add(to map[string]map[types.UID]bool, name string, uid types.UID) {
	if to[name] == nil {
		to[name] = map[types.UID]bool{}
	}
	to[name][uid] = true
}

// created is how many Jobs were ever created.
func (w *witness) created() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	count := 0
	for _, uids := range w.jobs {
		count += len(uids)
	}
	return count
}

// over is how many Jobs have a pod that has ended.
func (w *witness) over() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.ended)
}

// endedAt is when the Job's pod was seen to have ended; zero while it has not.
func (w *witness) endedAt(job string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended[job]
}

// onceEach asserts that these Jobs were created, each once and with one pod, and no others.
func (w *witness) onceEach(t testing.TB, jobs ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, job := range jobs {
		assert.Len(t, w.jobs[job], 1, "Jobs called %s", job)
		assert.Len(t, w.pods[job], 1, "pods of Job %s", job)
	}
	assert.Len(t, w.jobs, len(jobs), "Jobs")
}
