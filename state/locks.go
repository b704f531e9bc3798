package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

const (
	// leadPoll is how often a lock that another server holds is tried, and how
	// long a server that let go of it waits. With tcpUserTimeout it keeps the
	// time until another server takes over under 10 seconds.
	leadPoll = time.Second
	// sessionProbe is how often the session that holds a lock is asked, and
	// sessionReply how long it may take to answer. Their sum is well below the
	// 7 seconds after which the server gives up a client that is gone
	// (keepalives), so that a leader stops before another begins.
	sessionProbe = time.Second
	sessionReply = 3 * time.Second
)

// LockerConfig says where the locks are.
type LockerConfig struct {
	// URL is a session connection to the primary.
	URL string
	// Logger is required.
	Logger *slog.Logger
}

// Locker makes one server at a time do a piece of work, by Postgres advisory
// locks. Each lock has a database session of its own.
type Locker struct {
	connector connector
	logger    *slog.Logger
}

// NewLocker makes a Locker. It does not connect.
func NewLocker(cfg LockerConfig) (*Locker, error) {
	if cfg.Logger == nil {
		return nil, errors.New("state: a Locker needs a logger")
	}
	c, err := newConnector(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("database_url: %w", err)
	}
	c.Dialer(watchfulDialer{replyWithin: sessionReply})
	return &Locker{connector: c, logger: cfg.Logger}, nil
}

// Lead runs fn while this server, alone among all, holds the lock called name,
// and until ctx ends; it returns nil then. The context of fn ends when the
// session that holds the lock is lost; fn must then return, and only after
// that is a new session opened. Where fn returns by itself the lock is let go,
// for any server to take.
func (l *Locker) Lead(ctx context.Context, name string, fn func(ctx context.Context) error) error {
	failing := false
	for ctx.Err() == nil {
		led, err := l.leadOnce(ctx, name, fn)
		if err != nil && ctx.Err() == nil && (led || !failing) {
			// A database that stays away is one line, not one a second.
			l.logger.WarnContext(ctx, "not leading", "lock", name, "error", err)
		}
		failing = err != nil
		// Its error is that ctx ended, which the loop asks.
		_ = pause(ctx, leadPoll)
	}
	return nil
}

// leadOnce opens a session, waits for the lock and runs fn once. led says
// whether fn ran.
func (l *Locker) leadOnce(ctx context.Context, name string, fn func(ctx context.Context) error) (led bool, err error) {
	db := sql.OpenDB(l.connector)
	// Closing the session is what lets go of the lock.
	defer func() { _ = db.Close() }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }()
	if err := acquire(ctx, conn, name); err != nil {
		return false, err
	}
	l.logger.InfoContext(ctx, "leading", "lock", name)
	return true, leadOn(ctx, conn, fn)
}

// serverKeepaliveSQL makes the server notice soon that this client is gone. On
// a Unix socket it has no effect and needs none.
const serverKeepaliveSQL = `SELECT
	set_config('tcp_keepalives_idle', $1, false),
	set_config('tcp_keepalives_interval', $2, false),
	set_config('tcp_keepalives_count', $3, false),
	set_config('tcp_user_timeout', $4, false)`

// tryLockSQL tries the lock called $1. The number keeps these locks apart from
// those of lockKeySQL.
const tryLockSQL = `SELECT pg_try_advisory_lock(hashtextextended($1, 20180501))`

// acquire waits until the session holds the lock.
func acquire(ctx context.Context, conn *sql.Conn, name string) error {
	_, err := conn.ExecContext(ctx, serverKeepaliveSQL,
		fmt.Sprint(keepaliveIdle.Seconds()), fmt.Sprint(keepaliveInterval.Seconds()),
		fmt.Sprint(keepaliveCount), fmt.Sprint(tcpUserTimeout.Milliseconds()))
	if err != nil {
		return err
	}
	for {
		var held bool
		if err := conn.QueryRowContext(ctx, tryLockSQL, name).Scan(&held); err != nil {
			return err
		}
		if held {
			return nil
		}
		if err := pause(ctx, leadPoll); err != nil {
			return err
		}
	}
}

// leadOn runs fn until it returns, its session is lost, or ctx ends, and
// returns after fn has.
func leadOn(ctx context.Context, conn *sql.Conn, fn func(ctx context.Context) error) error {
	leading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	done := make(chan error, 1)
	go func() { done <- fn(leading) }()
	ticker := time.NewTicker(sessionProbe)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-ticker.C:
			// ctx may have ended: fn will say so, and its probe is no loss.
			if err := probe(conn); err != nil {
				lost := fmt.Errorf("the session that holds the lock is lost: %w", err)
				stop(lost)
				return errors.Join(lost, <-done)
			}
		}
	}
}

// probe asks the session whether it is there. Its time is bounded by the
// connection and not by a context, whose end would break the connection.
func probe(conn *sql.Conn) error {
	_, err := conn.ExecContext(context.Background(), `SELECT 1`)
	return err
}
