package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/lib/pq"
)

const (
	// leadPoll is how often locks that other servers hold are tried, and how long a server that released a lock waits
	// before it tries it again. With tcpUserTimeout it keeps a takeover under 10 seconds.
	leadPoll = time.Second
	// sessionReply bounds a reply on the lock session. With leadPoll it stays well below the 7 seconds after which the
	// server drops a client that is gone (keepalives), so that a leader stops before another begins.
	sessionReply = 3 * time.Second
)

// Locker elects one server at a time for a piece of work, by Postgres advisory locks. One database session holds all
// locks of a Locker, so the number of sessions does not grow with the number of clusters. It is safe for use by many
// goroutines.
type Locker struct {
	connector connector
	logger    *slog.Logger

	mu sync.Mutex
	// session is nil if no Lead is running.
	session  *lockSession
	sessions sync.WaitGroup
}

// NewLocker returns a Locker. url must be a session connection to the primary. It does not connect.
func NewLocker(url string, logger *slog.Logger) (*Locker, error) {
	c, err := newConnector(url, sessionReply)
	if err != nil {
		return nil, fmt.Errorf("database_url: %w", err)
	}
	return &Locker{connector: c, logger: logger}, nil
}

// Lead runs fn repeatedly until ctx ends, while this server alone holds the lock called name; it then returns nil. The
// context of fn ends when the session that holds the lock is lost; fn must then return, and no new session is opened
// before all leaders of this server have. When fn returns early, the lock is released for any server to take.
func (l *Locker) Lead(ctx context.Context, name string, fn func(ctx context.Context) error) error {
	d := &duty{ctx: ctx, name: name, granted: make(chan context.Context, 1)}
	s := l.join(d)
	defer l.leave(s, d)
	for ctx.Err() == nil {
		s.want(d)
		select {
		case <-ctx.Done():
		case leading := <-d.granted:
			l.logger.InfoContext(ctx, "leading", "lock", name)
			err := fn(leading)
			if leading.Err() != nil && ctx.Err() == nil {
				err = errors.Join(context.Cause(leading), err)
			}
			if err != nil && ctx.Err() == nil {
				l.logger.WarnContext(ctx, "not leading", "lock", name, "error", err)
			}
		}
		s.letGo(d)
		_ = pause(ctx, leadPoll) // the loop checks ctx
	}
	return nil
}

// join adds a duty to the running session, or starts one. It ends after the last duty has left.
func (l *Locker) join(d *duty) *lockSession {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session == nil {
		ctx, cancel := context.WithCancel(context.Background())
		s := &lockSession{
			connector: l.connector, logger: l.logger, cancel: cancel,
			duties: map[*duty]struct{}{}, kick: make(chan struct{}, 1),
		}
		l.session = s
		l.sessions.Go(func() { s.run(ctx) })
	}
	l.session.mu.Lock()
	defer l.session.mu.Unlock()
	l.session.duties[d] = struct{}{}
	return l.session
}

func (l *Locker) leave(s *lockSession, d *duty) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.duties, d)
	if len(s.duties) == 0 {
		s.cancel()
		l.session = nil
	}
}

// duty is one running Lead. The session guards what follows granted.
type duty struct {
	ctx  context.Context // that of Lead; the leader's context derives from it
	name string
	// granted carries the leader's context when the lock is held.
	granted chan context.Context
	wants   bool
	// stop ends the leader's context; nil if the lock is not held.
	stop context.CancelCauseFunc
	// released is not nil once the leader has returned, and closed once the lock is released.
	released chan struct{}
}

// lockSession is the database session that holds the locks of one server. It is opened again when it is lost.
type lockSession struct {
	connector connector
	logger    *slog.Logger
	cancel    context.CancelFunc
	kick      chan struct{}

	mu     sync.Mutex
	duties map[*duty]struct{}
}

func (s *lockSession) wake() {
	select {
	case s.kick <- struct{}{}:
	default: // it is awake already
	}
}

// want requests the lock of d.
func (s *lockSession) want(d *duty) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.wants = true
	s.wake()
}

// letGo withdraws the request of d, and returns once d does not hold its lock. The leader must have returned, or never
// begun.
func (s *lockSession) letGo(d *duty) {
	s.mu.Lock()
	d.wants = false
	if d.stop == nil {
		s.mu.Unlock()
		return
	}
	released := make(chan struct{})
	d.released = released
	s.wake()
	s.mu.Unlock()
	<-released
	select {
	case <-d.granted: // granted when Lead was ending
	default:
	}
}

// run keeps a session open until ctx ends.
func (s *lockSession) run(ctx context.Context) {
	failing := false
	for ctx.Err() == nil {
		opened, err := s.hold(ctx)
		if ctx.Err() != nil {
			return
		}
		if opened || !failing {
			// A database that stays away is logged once, not every second.
			s.logger.WarnContext(ctx, "cannot hold locks; another server may lead", "error", err)
		}
		failing = true
		s.lose(fmt.Errorf("the session that holds the lock is lost: %w", err))
		_ = pause(ctx, leadPoll) // the loop checks ctx
	}
}

// bound makes the server notice soon that this client is gone. On a Unix socket it has no effect and needs none.
func bound(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, `SELECT
		set_config('tcp_keepalives_idle', $1, false),
		set_config('tcp_keepalives_interval', $2, false),
		set_config('tcp_keepalives_count', $3, false),
		set_config('tcp_user_timeout', $4, false)`,
		fmt.Sprint(keepaliveIdle.Seconds()), fmt.Sprint(keepaliveInterval.Seconds()),
		fmt.Sprint(keepaliveCount), fmt.Sprint(tcpUserTimeout.Milliseconds()))
	return err
}

// hold opens a session and serves the duties with it until it fails or ctx ends. Closing the session releases its
// locks. opened reports whether the session was usable at first.
func (s *lockSession) hold(ctx context.Context) (opened bool, err error) {
	db := sql.OpenDB(s.connector)
	defer func() { _ = db.Close() }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	if err := bound(ctx, conn); err != nil {
		return false, err
	}
	ticker := time.NewTicker(leadPoll)
	defer ticker.Stop()
	for {
		// The connection bounds each statement, not ctx: an ended context would break the connection.
		if err := s.turn(context.WithoutCancel(ctx), conn); err != nil {
			return true, err
		}
		select {
		case <-ctx.Done():
			return true, nil
		case <-ticker.C:
		case <-s.kick:
		}
	}
}

// The number keeps these locks apart from those of other uses of advisory locks.
const (
	unlockSQL = `SELECT count(pg_advisory_unlock(hashtextextended(name, 20180501))) FROM unnest($1::text[]) AS name`
	// tryLocksSQL tries all locks in $1 and returns the names of those it got.
	tryLocksSQL = `SELECT COALESCE(array_agg(name), '{}') FROM unnest($1::text[]) AS name
		WHERE pg_try_advisory_lock(hashtextextended(name, 20180501))`
)

// turn unlocks what was released and tries what is wanted, each in one statement. If there is nothing to try it probes
// the session.
func (s *lockSession) turn(ctx context.Context, conn *sql.Conn) error {
	var releasing []*duty
	var unlock, try pq.StringArray
	s.mu.Lock()
	// A session can take its own lock twice, so a name is tried only if no duty of this server holds it.
	taken := map[string]bool{}
	for d := range s.duties {
		if d.stop != nil {
			taken[d.name] = true
		}
		if d.released != nil {
			releasing, unlock = append(releasing, d), append(unlock, d.name)
		}
	}
	for d := range s.duties {
		if d.wants && !taken[d.name] {
			taken[d.name] = true
			try = append(try, d.name)
		}
	}
	s.mu.Unlock()

	if len(unlock) > 0 {
		if _, err := conn.ExecContext(ctx, unlockSQL, unlock); err != nil {
			return err
		}
		s.mu.Lock()
		for _, d := range releasing {
			d.finish()
		}
		s.mu.Unlock()
	}
	if len(try) == 0 {
		_, err := conn.ExecContext(ctx, `SELECT 1`)
		return err
	}
	var got pq.StringArray
	if err := conn.QueryRowContext(ctx, tryLocksSQL, try).Scan(&got); err != nil {
		return err
	}
	for _, name := range got {
		if s.grant(name) {
			continue
		}
		// The duty that wanted it has left meanwhile.
		if _, err := conn.ExecContext(ctx, unlockSQL, pq.StringArray{name}); err != nil {
			return err
		}
	}
	return nil
}

// grant makes a duty of that name the leader, and reports whether there is one.
func (s *lockSession) grant(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d := range s.duties {
		if d.name == name && d.wants {
			leading, stop := context.WithCancelCause(d.ctx)
			d.wants, d.stop = false, stop
			d.granted <- leading
			return true
		}
	}
	return false
}

// finish makes letGo return.
func (d *duty) finish() {
	d.stop(nil)
	close(d.released)
	d.stop, d.released = nil, nil
}

// lose ends the contexts of all leaders and returns after they have returned.
func (s *lockSession) lose(lost error) {
	for leading := true; leading; {
		leading = false
		s.mu.Lock()
		for d := range s.duties {
			switch {
			case d.released != nil:
				d.finish()
			case d.stop != nil:
				d.stop(lost) // The first cause counts.
				leading = true
			}
		}
		s.mu.Unlock()
		if leading {
			<-s.kick
		}
	}
}

// lockHeldSQL reports whether a session holds the lock called $1. pg_locks shows the key in two halves.
const lockHeldSQL = `SELECT EXISTS (
	SELECT FROM pg_locks, hashtextextended($1, 20180501) AS key
	WHERE locktype = 'advisory' AND granted AND objsubid = 1
	  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
	  AND classid = CAST((key >> 32) & 4294967295 AS oid) AND objid = CAST(key & 4294967295 AS oid))`

// LockHeld reports whether any server leads under a name (Locker.Lead).
func LockHeld(ctx context.Context, db *sql.DB, name string) (held bool, err error) {
	err = db.QueryRowContext(ctx, lockHeldSQL, name).Scan(&held)
	return held, err
}
