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

const (
	// streamAgain is how soon a stream that ended before its container is opened again.
	streamAgain = 2 * time.Second
	// openWithin bounds how long a stop waits for the log to be followed, so that it holds the run's last words.
	openWithin = 2 * time.Second
)

// podLog is where an attempt's log is.
type podLog struct {
	key       logs.Key
	namespace string
	jobName   string
	pod       string // empty if it is not known
	started   time.Time
	ended     bool // the container has ended, or its end is ordered: a stream that ends has given everything
}

// logOf returns where the log of an attempt in the cluster is.
func logOf(a *attempt) podLog {
	p := podLog{
		key: logs.Key{RunID: a.runID, Attempt: a.number}, namespace: a.namespace, jobName: a.jobName, ended: !a.alive(),
	}
	if a.pod == nil {
		return p
	}
	p.pod = a.pod.Name
	for _, c := range a.pod.Status.ContainerStatuses {
		switch {
		case c.Name != a.runID:
		case c.State.Running != nil:
			p.started = c.State.Running.StartedAt.Time
		case c.State.Terminated != nil:
			p.started = c.State.Terminated.StartedAt.Time
		}
	}
	return p
}

// logOfRun returns where the log of an attempt at a run is, by the run's row.
func (e *Engine) logOfRun(run state.Run, attempt int64) podLog {
	past := attempt < run.Attempt()
	p := podLog{key: logs.Key{RunID: run.RunID, Attempt: attempt}, namespace: e.namespaceOf(run), ended: past || run.Status.Final()}
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

// logStreams reads the logs of pods into the archive: one followed stream per attempt and server, begun by the first
// reader, by eks_log_follow, or by a stop. The streams outlive whoever asked for them and end with the engine.
type logStreams struct {
	*Engine
	mu      sync.Mutex
	streams map[logs.Key]*logStream
}

// logStream is one followed log.
type logStream struct {
	opened chan struct{} // closed when the cluster has responded
	done   chan struct{} // closed when the stream has ended
	err    error         // set before done
}

// start begins to follow a log, unless it is followed already, and returns the stream and whether it is new. The stream
// is nil if the engine is closed.
func (l *logStreams) start(p podLog) (s *logStream, begun bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.streams[p.key]; s != nil {
		return s, false
	}
	if !l.begin() {
		return nil, false
	}
	defer l.started.Done()
	s = &logStream{opened: make(chan struct{}), done: make(chan struct{})}
	l.streams[p.key] = s
	l.started.Go(func() {
		isOpen := sync.OnceFunc(func() { close(s.opened) })
		s.err = l.read(l.life, p, isOpen)
		isOpen()
		close(s.done)
		// A stream that ended stays for a moment, so that it is not opened again at once.
		timer := time.NewTimer(streamAgain)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-l.life.Done():
		}
		l.drop(p.key, s)
	})
	return s, true
}

func (l *logStreams) drop(key logs.Key, s *logStream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams[key] == s {
		delete(l.streams, key)
	}
}

// open has an attempt's log followed and waits until it is, for openWithin at most.
func (l *logStreams) open(ctx context.Context, p podLog) {
	ctx, cancel := context.WithTimeout(ctx, openWithin)
	defer cancel()
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
func (l *logStreams) complete(ctx context.Context, p podLog) error {
	for {
		part, err := l.cfg.Archive.Read(ctx, p.key, 0, 0)
		if err != nil || part.Complete {
			return err
		}
		s, begun := l.start(p)
		if s == nil {
			return errClosed
		}
		select { // a stream that goes on ends with its container
		case <-s.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if begun {
			return s.err
		}
		l.drop(p.key, s) // it may have been opened before the end: there may be more
	}
}

// read copies a pod's log into the archive until it ends; isOpen is called when the cluster has responded.
func (l *logStreams) read(ctx context.Context, p podLog, isOpen func()) error {
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
	gone := func() error {
		if !p.ended {
			return errors.New("kubernetes: the pod does not exist")
		}
		return w.Complete()
	}
	if p.pod == "" {
		pods, err := l.podsOf(ctx, p.namespace, labelJobName+"="+p.jobName)
		if err != nil {
			return err
		}
		if len(pods) == 0 {
			return gone()
		}
		p.pod = pods[len(pods)-1]
	}
	options := &corev1.PodLogOptions{Container: p.key.RunID, Follow: true, Timestamps: true}
	if !mark.Since.IsZero() {
		options.SinceTime = &metav1.Time{Time: mark.Since}
	}
	body, err := l.cfg.Kube.Streams.CoreV1().Pods(p.namespace).GetLogs(p.pod, options).Stream(ctx)
	isOpen()
	if apierrors.IsNotFound(err) {
		return gone()
	}
	if err != nil {
		return fmt.Errorf("read the pod's log: %w", err)
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
