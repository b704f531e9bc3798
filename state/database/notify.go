package database

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"

	"github.com/stitchfix/flotilla-os/fault"
)

const (
	// notifyChannel is the channel on which servers notify each other of waiting runs.
	notifyChannel = "flotilla_runs"
	// notifyInterval is the least time between two NOTIFY of one server (data-model.md, Life of a run).
	notifyInterval = 20 * time.Millisecond
	// notifyRetry is the wait after a NOTIFY that failed.
	notifyRetry = time.Second
	// listenRetryMin and listenRetryMax bound the waits between attempts to listen again.
	listenRetryMin = 100 * time.Millisecond
	listenRetryMax = 2 * time.Second
)

// Notifier wakes the workers of all servers when runs wait. It only saves time: the workers' polls find the runs whose
// wake is lost.
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

// NewNotifier returns a Notifier. url must be a session connection to the primary. It does not connect: see Run.
func NewNotifier(url string, logger *slog.Logger) (*Notifier, error) {
	c, err := newConnector(url, 0)
	if err != nil {
		return nil, fmt.Errorf("database_url: %w", err)
	}
	return &Notifier{
		url: named(url), connector: c, logger: logger, self: uuid.NewString(),
		pending: make(chan struct{}, 1), subscribers: map[chan struct{}]struct{}{},
	}, nil
}

// Wake wakes this server's subscribers at once, and those of other servers soon. It never blocks.
func (n *Notifier) Wake() {
	n.wakeLocal()
	select {
	case n.pending <- struct{}{}:
	default: // one is pending, and is as good as two
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

// Subscribe returns a channel that receives after every Wake of any server; several wakes may become one. cancel ends
// the subscription.
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

// Run sends wakes to other servers and receives theirs until ctx ends; it then returns nil. While the database is away
// it tries again.
func (n *Notifier) Run(ctx context.Context) error {
	var both sync.WaitGroup
	both.Go(func() { n.send(ctx) })
	both.Go(func() { n.listen(ctx) })
	both.Wait()
	return nil
}

// send sends wakes to other servers, on a connection of its own.
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
				n.logger.WarnContext(ctx, "cannot wake other servers; their polls find the runs", "error", err)
			}
			select {
			case n.pending <- struct{}{}: // send it later
			default:
			}
			rest = notifyRetry
		}
		failing = err != nil
		_ = pause(ctx, rest) // the loop checks ctx
	}
}

// listen wakes the subscribers when another server notifies, and after every gap in which a notification may have been
// missed.
func (n *Notifier) listen(ctx context.Context) {
	listener := pq.NewDialListener(watchfulDialer{}, n.url, listenRetryMin, listenRetryMax,
		func(event pq.ListenerEventType, err error) {
			switch {
			case event == pq.ListenerEventDisconnected && ctx.Err() == nil:
				n.logger.WarnContext(ctx, "not receiving wakes of other servers; polls find the runs", "error", err)
			case event == pq.ListenerEventReconnected:
				n.logger.InfoContext(ctx, "receiving wakes of other servers again")
			}
		})
	var listening sync.WaitGroup
	// Listen waits for the database and fails only when the listener is closed.
	listening.Go(func() { _ = listener.Listen(notifyChannel) })
	defer func() {
		_ = listener.Close()
		listening.Wait()
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
