package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"

	"github.com/stitchfix/flotilla-os/fault"
)

const (
	// notifyChannel is the channel on which servers tell each other that runs
	// wait.
	notifyChannel = "flotilla_runs"
	// notifyInterval is the least time between two NOTIFY of one server
	// (data-model.md, Life of a run).
	notifyInterval = 20 * time.Millisecond
	// notifyRetry is the wait after a NOTIFY that failed.
	notifyRetry = time.Second
	// listenRetryMin and listenRetryMax bound the waits between attempts to
	// listen again.
	listenRetryMin = 100 * time.Millisecond
	listenRetryMax = 2 * time.Second
)

// NotifierConfig says through which database servers wake each other.
type NotifierConfig struct {
	// URL is a session connection to the primary.
	URL string
	// Logger is required.
	Logger *slog.Logger
}

// Notifier wakes the workers of all servers when there is something to do. It
// is a short cut only: what it loses, the workers' polls find.
type Notifier struct {
	url       string
	connector connector
	logger    *slog.Logger
	// self marks this server's own notifications.
	self    string
	pending chan struct{}

	mu          sync.Mutex
	subscribers map[chan struct{}]struct{}
}

// NewNotifier makes a Notifier. It does not connect: see Run.
func NewNotifier(cfg NotifierConfig) (*Notifier, error) {
	if cfg.Logger == nil {
		return nil, errors.New("state: a Notifier needs a logger")
	}
	c, err := newConnector(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("database_url: %w", err)
	}
	c.Dialer(watchfulDialer{})
	return &Notifier{
		url: cfg.URL, connector: c, logger: cfg.Logger, self: uuid.NewString(),
		pending: make(chan struct{}, 1), subscribers: map[chan struct{}]struct{}{},
	}, nil
}

// Wake wakes this server's subscribers at once, and the other servers' soon.
// It never waits.
func (n *Notifier) Wake() {
	n.wakeLocal()
	select {
	case n.pending <- struct{}{}:
	default: // one is on its way already, and is as good as two
	}
}

func (n *Notifier) wakeLocal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for subscriber := range n.subscribers {
		select {
		case subscriber <- struct{}{}:
		default:
		}
	}
}

// Subscribe gives a channel on which something is sent after every Wake of any
// server; several may become one. cancel ends it.
func (n *Notifier) Subscribe() (wakes <-chan struct{}, cancel func()) {
	subscriber := make(chan struct{}, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.subscribers[subscriber] = struct{}{}
	return subscriber, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.subscribers, subscriber)
	}
}

// Run tells other servers of wakes and hears of theirs until ctx ends; it
// returns nil then. A database that goes away and comes back is waited for.
func (n *Notifier) Run(ctx context.Context) error {
	var both sync.WaitGroup
	both.Go(func() { n.send(ctx) })
	both.Go(func() { n.listen(ctx) })
	both.Wait()
	return nil
}

// send passes wakes on, on a connection of its own.
func (n *Notifier) send(ctx context.Context) {
	db := sql.OpenDB(n.connector)
	db.SetMaxOpenConns(1)
	defer func() { _ = db.Close() }()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.pending:
		}
		fault.Point(fault.WakeUpNotSent)
		rest := notifyInterval
		_, err := db.ExecContext(ctx, `SELECT pg_notify($1, $2)`, notifyChannel, n.self)
		if err != nil {
			if !failing && ctx.Err() == nil {
				n.logger.WarnContext(ctx, "other servers cannot be woken; their polls find the runs", "error", err)
			}
			n.again()
			rest = notifyRetry
		}
		failing = err != nil
		_ = pause(ctx, rest) // the loop asks ctx
	}
}

// again puts a wake that was not passed on back.
func (n *Notifier) again() {
	select {
	case n.pending <- struct{}{}:
	default:
	}
}

// listen wakes the subscribers when another server says so, and after every
// gap in which one might have.
func (n *Notifier) listen(ctx context.Context) {
	listener := pq.NewDialListener(watchfulDialer{}, n.url, listenRetryMin, listenRetryMax, n.heard(ctx))
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		// It waits for the database and fails only when closed.
		_ = listener.Listen(notifyChannel)
	}()
	defer func() {
		_ = listener.Close()
		<-listening
		for range listener.Notify { //nolint:revive // the listener's end closes it
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case note := <-listener.Notify:
			if note == nil || note.Extra != n.self {
				n.wakeLocal()
			}
		}
	}
}

// heard logs how the listening goes.
func (n *Notifier) heard(ctx context.Context) pq.EventCallbackType {
	return func(event pq.ListenerEventType, err error) {
		switch event {
		case pq.ListenerEventDisconnected:
			if ctx.Err() == nil {
				n.logger.WarnContext(ctx, "wakes of other servers are not heard; polls find the runs", "error", err)
			}
		case pq.ListenerEventReconnected:
			n.logger.InfoContext(ctx, "wakes of other servers are heard again")
		case pq.ListenerEventConnected, pq.ListenerEventConnectionAttemptFailed:
		}
	}
}
