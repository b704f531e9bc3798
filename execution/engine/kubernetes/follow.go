package kubernetes

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
)

const (
	// reporters is how many observations are made at a time; each is a wait for the database.
	reporters = 8
	// finishers is how many ended attempts have their logs fetched at a time.
	finishers = 8
	// Failed observations and log fetches are tried again after these.
	retryLeast  = 200 * time.Millisecond
	finishAgain = 2 * time.Second
	retryMost   = 30 * time.Second
)

// follower follows the cluster once, from a list of everything to the end of its context.
type follower struct {
	*Engine
	observer  engine.Observer
	board     *board
	reports   workqueue.TypedRateLimitingInterface[string]
	endings   workqueue.TypedRateLimitingInterface[string]
	metrics   metricsState
	unknown   map[string]time.Time // active runs that the cluster does not know, by id, since when
	lastError lastError
}

// Follow watches the cluster's Jobs, pods and events and reports what they mean for runs. Whatever happened while
// nobody followed is in the first lists.
func (e *Engine) Follow(ctx context.Context, o engine.Observer) error {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[string]
	f := &follower{
		Engine: e, observer: o, unknown: map[string]time.Time{},
		reports: workqueue.NewTypedRateLimitingQueue(limiter(retryLeast, retryMost)),
		endings: workqueue.NewTypedRateLimitingQueue(limiter(finishAgain, retryMost)),
	}
	f.board = newBoard(f.reports.Add)
	e.follows(f.board)
	defer e.follows(nil)

	group, ctx := errgroup.WithContext(ctx)
	jobs, pods := f.board.jobStore(), f.board.podStore()
	group.Go(func() error { return f.reflect(ctx, "Jobs", f.jobSource(), &batchv1.Job{}, jobs) })
	group.Go(func() error { return f.reflect(ctx, "pods", f.podSource(), &corev1.Pod{}, pods) })
	group.Go(func() error { return f.whenSynced(ctx, jobs.synced, pods.synced) })
	group.Go(func() error {
		<-ctx.Done()
		f.reports.ShutDown()
		f.endings.ShutDown()
		return nil
	})
	return group.Wait()
}

// whenSynced works off what changes, from the time on that everything was listed once: before, a Job could seem to
// have no pod.
func (f *follower) whenSynced(ctx context.Context, synced ...chan struct{}) error {
	for _, s := range synced {
		select {
		case <-ctx.Done():
			return nil
		case <-s:
		}
	}
	f.logger.Info("following")
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return f.reflect(ctx, "events", f.eventSource(), &corev1.Event{}, &eventSink{follower: f})
	})
	for range reporters {
		group.Go(func() error {
			work(f.reports, func(jobName string) error { return f.report(ctx, jobName) })
			return nil
		})
	}
	for range finishers {
		group.Go(func() error {
			work(f.endings, func(jobName string) error { return f.finish(ctx, jobName) })
			return nil
		})
	}
	group.Go(func() error { f.every(ctx, f.reviewInterval(), true, f.review); return nil })
	group.Go(func() error { f.every(ctx, stoppedInterval, false, f.endStopped); return nil })
	group.Go(func() error { f.every(ctx, usageInterval, false, f.measure); return nil })
	return group.Wait()
}

// work takes from a queue until it is shut down; what fails is tried again with a growing delay.
func work(queue workqueue.TypedRateLimitingInterface[string], do func(key string) error) {
	for {
		key, down := queue.Get()
		if down {
			return
		}
		if do(key) != nil {
			queue.AddRateLimited(key)
		} else {
			queue.Forget(key)
		}
		queue.Done(key)
	}
}

// every does something again and again until ctx ends. A failure is logged when it is a new one.
func (f *follower) every(ctx context.Context, interval time.Duration, atOnce bool, do func(ctx context.Context) error) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if atOnce {
			if err := do(ctx); err != nil && ctx.Err() == nil {
				f.note("cannot look after the cluster's runs; trying again", err)
			}
		}
		atOnce = true
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// reflect keeps a store at what the cluster has, until ctx ends.
func (f *follower) reflect(ctx context.Context, what string, source *cache.ListWatch, kind runtime.Object, into cache.ReflectorStore) error {
	list, watches := source.ListWithContextFunc, source.WatchFuncWithContext
	source.ListWithContextFunc = func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		found, err := list(ctx, o)
		f.noteReached(ctx, what, err)
		return found, err
	}
	source.WatchFuncWithContext = func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		opened, err := watches(ctx, o)
		f.noteReached(ctx, what, err)
		return opened, err
	}
	lw := cache.ToListWatcherWithWatchListSemantics(source, f.cfg.Kube.Streams)
	reflector := cache.NewReflectorWithOptions(lw, kind, into, cache.ReflectorOptions{Name: f.cfg.Cluster.Name + " " + what})
	reflector.RunWithContext(ctx)
	if ctx.Err() == nil {
		return errors.New("kubernetes: watching ended by itself")
	}
	return nil
}

func (f *follower) jobSource() *cache.ListWatch {
	return sourceOf(f.cfg.Kube.Streams.BatchV1().Jobs(f.cfg.EKS.JobNamespace), job.LabelRunID)
}

func (f *follower) podSource() *cache.ListWatch {
	return sourceOf(f.cfg.Kube.Streams.CoreV1().Pods(f.cfg.EKS.JobNamespace), job.LabelRunID)
}

func (f *follower) eventSource() *cache.ListWatch {
	return sourceOf(f.cfg.Kube.Streams.CoreV1().Events(f.cfg.EKS.JobNamespace), "")
}

// watchable is the client of one kind of object in a namespace.
type watchable[L runtime.Object] interface {
	List(ctx context.Context, o metav1.ListOptions) (L, error)
	Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
}

// sourceOf lists and watches what has a label, or everything where none is given.
func sourceOf[L runtime.Object](objects watchable[L], label string) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = label
			return objects.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = label
			return objects.Watch(ctx, o)
		},
	}
}
