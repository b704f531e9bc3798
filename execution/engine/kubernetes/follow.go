package kubernetes

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/workqueue"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

const (
	// reporters is how many observations are made at a time; each waits for the database.
	reporters = 8
	// finishers is how many ended attempts have their logs fetched at a time.
	finishers = 8
	// Failed observations and log fetches are tried again after these times.
	retryLeast  = 200 * time.Millisecond
	finishAgain = 2 * time.Second
	retryMost   = 30 * time.Second
)

// errClosed ends the following of an engine that is closed.
var errClosed = errors.New("kubernetes: the engine is closed")

// follower follows the cluster from a list of everything to the end of its context.
type follower struct {
	*Engine
	observer engine.Observer
	attempts *attempts
	reports  workqueue.TypedRateLimitingInterface[string] // Jobs whose attempt is to be reported
	endings  workqueue.TypedRateLimitingInterface[string] // Jobs whose attempt is to be finished
	// metricsAfter is when use is measured again; only measure uses it.
	metricsAfter time.Time
	// unknown holds since when the cluster does not know an active run, by id; only review uses it.
	unknown map[string]time.Time
	outages outages
}

// Follow watches the cluster's Jobs, pods and events and reports what they mean for runs. Whatever happened while
// nobody followed is in the first lists.
func (e *Engine) Follow(ctx context.Context, o engine.Observer) error {
	if !e.begin() {
		return errClosed
	}
	defer e.started.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(e.life, func() { cancel(errClosed) })()

	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[string]
	f := &follower{
		Engine: e, observer: o, unknown: map[string]time.Time{},
		reports: workqueue.NewTypedRateLimitingQueue(limiter(retryLeast, retryMost)),
		endings: workqueue.NewTypedRateLimitingQueue(limiter(finishAgain, retryMost)),
		outages: outages{logger: e.logger, now: e.now},
	}
	f.attempts = newAttempts(f.reports.Add, func() { f.count(metrics.EngineEKSTriggeredScaleUp) })
	e.following.Store(f.attempts)
	defer e.following.Store(nil)

	group, ctx := errgroup.WithContext(ctx)
	wait := func() error {
		if err := group.Wait(); err != nil || !errors.Is(context.Cause(ctx), errClosed) {
			return err
		}
		return errClosed
	}
	api, namespace := e.cfg.Kube.Streams, e.cfg.EKS.JobNamespace
	jobs, pods := newStore(f.attempts.jobSeen, f.attempts.jobRemoved), newStore(f.attempts.podSeen, f.attempts.podRemoved)
	group.Go(func() error {
		return follow(ctx, f, api.BatchV1().Jobs(namespace), watched{"Jobs", &batchv1.Job{}, job.LabelRunID, jobs})
	})
	group.Go(func() error {
		return follow(ctx, f, api.CoreV1().Pods(namespace), watched{"pods", &corev1.Pod{}, job.LabelRunID, pods})
	})
	group.Go(func() error {
		<-ctx.Done()
		f.reports.ShutDown()
		f.endings.ShutDown()
		return nil
	})
	// Nothing is reported until everything was listed once: before, a Job could seem to have no pod.
	for _, synced := range []chan struct{}{jobs.synced, pods.synced} {
		select {
		case <-ctx.Done():
			return wait()
		case <-synced:
		}
	}
	f.logger.Info("following the cluster")
	group.Go(func() error {
		return follow(ctx, f, api.CoreV1().Events(namespace), watched{"events", &corev1.Event{}, "", eventSink{f}})
	})
	for range reporters {
		group.Go(func() error { work(ctx, f.reports, f.report); return nil })
	}
	for range finishers {
		group.Go(func() error { work(ctx, f.endings, f.finish); return nil })
	}
	group.Go(func() error {
		f.outages.note(ctx, "look for lost runs", f.review(ctx))
		// Short enough that a lost run is found in time.
		return f.every(ctx, max(time.Second, min(f.cfg.LostAfter/6, slowestReview)), "look for lost runs", f.review)
	})
	group.Go(func() error { return f.every(ctx, stoppedInterval, "end stopped runs", f.endStopped) })
	group.Go(func() error { return f.every(ctx, usageInterval, "measure what runs use", f.measure) })
	return wait()
}

// work takes from a queue until it is shut down. What fails is tried again with a growing delay.
func work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[string], do func(ctx context.Context, key string) error) {
	for {
		key, down := queue.Get()
		if down {
			return
		}
		if do(ctx, key) != nil {
			queue.AddRateLimited(key)
		} else {
			queue.Forget(key)
		}
		queue.Done(key)
	}
}

// every calls do at each interval until ctx ends.
func (f *follower) every(ctx context.Context, interval time.Duration, doing string, do func(ctx context.Context) error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			f.outages.note(ctx, doing, do(ctx))
		}
	}
}

// count counts something that the cluster did for a run.
func (f *follower) count(m metrics.Metric) {
	f.cfg.Metrics.Increment(m, []string{
		metrics.Tag(metrics.TagEngine, state.EKSEngine), metrics.Tag(metrics.TagCluster, f.cfg.Cluster.Name),
	}, 1)
}

const (
	// changedAgain is the least time between two log lines of one outage; error texts that hold ports or times change
	// with every try.
	changedAgain = time.Minute
	// sameAgain is when an outage that goes on unchanged is logged again.
	sameAgain = 10 * time.Minute
)

// outages logs failures that are tried again: when an outage begins, when its error changes, and when it ends.
type outages struct {
	logger *slog.Logger
	now    func() time.Time
	mu     sync.Mutex
	logged map[string]outage
}

type outage struct {
	text string
	at   time.Time
}

// note records how doing something went; err is nil if it works again. What is done for one run at a time never works
// again here, because it may still fail for another. Failures after ctx ended are none.
func (o *outages) note(ctx context.Context, doing string, err error, attrs ...any) {
	if ctx.Err() != nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	last, failing := o.logged[doing]
	if err == nil {
		if failing {
			delete(o.logged, doing)
			o.logger.InfoContext(ctx, "following the cluster works again", "doing", doing)
		}
		return
	}
	now := o.now()
	age := now.Sub(last.at)
	if !failing || age >= sameAgain || age >= changedAgain && err.Error() != last.text {
		if o.logged == nil {
			o.logged = map[string]outage{}
		}
		o.logged[doing] = outage{err.Error(), now}
		o.logger.With(attrs...).WarnContext(ctx, "following the cluster fails; trying again", "doing", doing, "error", err)
	}
}
