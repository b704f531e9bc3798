package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/clients/logs"
	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
	"github.com/stitchfix/flotilla-os/state"
)

// streamAgain is how soon a stream that ended before its container is opened again.
const streamAgain = 2 * time.Second

// place is where an attempt's log is.
type place struct {
	key       logs.Key
	namespace string
	jobName   string
	pod       string // empty where it is not known
	started   time.Time
	ended     bool // the container has ended, or its end is ordered: a stream that ends has given everything
}

// logbook reads the logs of pods into the archive: one followed stream per attempt and server, begun by the first
// reader, by eks_log_follow, or by a stop.
type logbook struct {
	*Engine
	ctx    context.Context //nolint:containedctx // the life of the streams, which outlive who asked for them
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	streams map[logs.Key]*stream
	closed  bool
}

// stream is one followed log.
type stream struct {
	opened chan struct{} // closed when the cluster has answered
	done   chan struct{} // closed when it has ended
	once   sync.Once
	err    error     // set before done
	until  time.Time // set before done: not to be opened again before
}

func newLogbook(e *Engine) *logbook {
	ctx, cancel := context.WithCancel(context.Background())
	return &logbook{Engine: e, ctx: ctx, cancel: cancel, streams: map[logs.Key]*stream{}}
}

func (l *logbook) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	l.wg.Wait()
}

// placeOf is where the follower knows an attempt to be.
func (f *follower) placeOf(a *attempt) place {
	p := place{key: logs.Key{RunID: a.runID, Attempt: a.number}, namespace: a.namespace, jobName: a.jobName, ended: !a.alive()}
	if a.pod != nil {
		p.pod = a.pod.Name
		for _, c := range a.pod.Status.ContainerStatuses {
			if c.Name != a.runID {
				continue
			}
			if c.State.Running != nil {
				p.started = c.State.Running.StartedAt.Time
			} else if c.State.Terminated != nil {
				p.started = c.State.Terminated.StartedAt.Time
			}
		}
	}
	return p
}

// placeOfRun is where a run's row says that an attempt is.
func (l *logbook) placeOfRun(run state.Run, attempt int64) place {
	past := attempt < run.Attempt()
	p := place{key: logs.Key{RunID: run.RunID, Attempt: attempt}, namespace: l.namespaceOf(run), ended: past || run.Status.Final()}
	if run.PodName != nil && !past {
		p.pod = *run.PodName
	}
	if run.StartedAt != nil && run.Attempt() == 1 {
		p.started = *run.StartedAt
	}
	run.AttemptCount = &attempt
	p.jobName = job.Name(run)
	return p
}

// start begins to follow a log, unless it is followed already, and answers the stream, and whether it is a new one; nil
// where nothing can be begun.
func (l *logbook) start(p place) (s *stream, begun bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.streams[p.key]; s != nil {
		select {
		case <-s.done:
			if time.Now().Before(s.until) {
				return s, false
			}
		default:
			return s, false
		}
	}
	if l.closed {
		return nil, false
	}
	s = &stream{opened: make(chan struct{}), done: make(chan struct{})}
	l.streams[p.key] = s
	l.wg.Go(func() {
		s.err = l.follow(l.ctx, p, s)
		s.until = time.Now().Add(streamAgain)
		s.isOpen()
		close(s.done)
		l.drop(p.key, s)
	})
	return s, true
}

func (s *stream) isOpen() { s.once.Do(func() { close(s.opened) }) }

// drop forgets a stream that ended, but for the moment in which it is not to be opened again.
func (l *logbook) drop(key logs.Key, s *stream) {
	timer := time.NewTimer(streamAgain)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams[key] == s {
		delete(l.streams, key)
	}
}

// open has an attempt's log followed and waits until it is, or ctx ends.
func (l *logbook) open(ctx context.Context, run state.Run, attempt int64) {
	p := l.placeOfRun(run, attempt)
	p.ended = false
	l.openAt(ctx, p)
}

func (l *logbook) openAt(ctx context.Context, p place) {
	if part, err := l.cfg.Archive.Read(ctx, p.key, 0, 0); err != nil || part.Complete {
		return
	}
	if s, _ := l.start(p); s != nil {
		select {
		case <-s.opened:
		case <-ctx.Done():
		}
	}
}

// complete fetches the rest of an ended attempt's log. An error means that there may be more of it.
func (l *logbook) complete(ctx context.Context, p place) error {
	for {
		part, err := l.cfg.Archive.Read(ctx, p.key, 0, 0)
		if err != nil || part.Complete {
			return err
		}
		l.mu.Lock()
		s := l.streams[p.key]
		l.mu.Unlock()
		if s == nil {
			break
		}
		select { // a stream that goes on ends with its container
		case <-s.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		l.mu.Lock()
		if l.streams[p.key] == s {
			delete(l.streams, p.key)
		}
		l.mu.Unlock()
	}
	s, _ := l.start(p)
	if s == nil {
		return context.Canceled
	}
	select {
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// follow reads a pod's log into the archive until it ends.
func (l *logbook) follow(ctx context.Context, p place, s *stream) error {
	w, err := l.cfg.Archive.Append(ctx, p.key)
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }()
	if part, err := l.cfg.Archive.Read(ctx, p.key, 0, 0); err != nil || part.Complete {
		return err
	}
	mark, err := w.Mark()
	if err != nil {
		return err
	}
	if p.pod == "" {
		pods, err := l.podsOf(ctx, p.namespace, labelJobName+"="+p.jobName)
		if err != nil {
			return err
		}
		if len(pods) == 0 {
			return l.nothingLeft(w, p)
		}
		p.pod = pods[len(pods)-1]
	}
	options := &corev1.PodLogOptions{Container: p.key.RunID, Follow: true, Timestamps: true}
	if !mark.Since.IsZero() {
		options.SinceTime = &metav1.Time{Time: mark.Since}
	}
	body, err := l.cfg.Kube.Streams.CoreV1().Pods(p.namespace).GetLogs(p.pod, options).Stream(ctx)
	s.isOpen()
	if apierrors.IsNotFound(err) {
		return l.nothingLeft(w, p)
	}
	if err != nil {
		return fmt.Errorf("reading the pod's log: %w", err)
	}
	defer func() { _ = body.Close() }()
	if err := logs.Copy(w, logs.Source{Reader: body, Started: p.started}); err != nil {
		return err
	}
	if p.ended {
		return w.Complete()
	}
	return nil
}

// nothingLeft is a log whose pod is gone.
func (l *logbook) nothingLeft(w logs.Writer, p place) error {
	if !p.ended {
		return errors.New("kubernetes: the pod is not there")
	}
	return w.Complete()
}
