// Package database connects to Postgres and maintains its schema: pools, the session that holds locks, notifications
// between servers, migrations and index builds. It knows no domain type; package state does.
package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	"golang.org/x/sys/unix"
)

const (
	// connectTimeout bounds one attempt to connect if the URL gives no bound. A request must still have time to report
	// that the database is away.
	connectTimeout = 5 * time.Second
	// idleTime is how long a pool keeps an unused connection.
	idleTime = 5 * time.Minute
	// cancelGrace is how long a query may run on after its context has ended. A frozen or unreachable database never
	// confirms the cancellation.
	cancelGrace = 500 * time.Millisecond
	// applicationName names our sessions in pg_stat_activity if the URL does not.
	applicationName = "flotilla-os"
	// defaultConnections bounds a pool if its configuration does not.
	defaultConnections = 30
)

// sessionSettings are set on every new connection. Times are read and written in UTC. The just-in-time compiler is off
// because compiling the wide list queries takes longer than running them. They are not start parameters because a
// session pooler refuses those it does not know.
const sessionSettings = `SET TIME ZONE 'UTC'; SET jit = off`

// PoolConfig describes a pool of connections.
type PoolConfig struct {
	// MaxOpen and MaxIdle bound the connections; 0 means 30.
	MaxOpen, MaxIdle int
	// StatementTimeout bounds every statement; 0 means no bound.
	StatementTimeout time.Duration
}

// Open returns a pool of connections to url, a URL or a string of key=value pairs. It does not connect.
func Open(url string, cfg PoolConfig) (*sqlx.DB, error) {
	c, err := newConnector(url, 0)
	if err != nil {
		return nil, err
	}
	if cfg.MaxOpen == 0 {
		cfg.MaxOpen = defaultConnections
	}
	if cfg.MaxIdle == 0 {
		cfg.MaxIdle = defaultConnections
	}
	c.statementTimeout = cfg.StatementTimeout
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(cfg.MaxOpen)
	db.SetMaxIdleConns(min(cfg.MaxIdle, cfg.MaxOpen))
	db.SetConnMaxIdleTime(idleTime)
	return sqlx.NewDb(db, "postgres"), nil
}

// NewConnector returns a connector that opens the sessions of a pool.
func NewConnector(url string) (driver.Connector, error) { return newConnector(url, 0) }

// connector opens sessions that have sessionSettings. It gives each a dialer of its own, which ends a session whose
// query outlives its context.
type connector struct {
	cfg pq.Config
	// replyWithin bounds every read and write of a session; 0 means no bound.
	replyWithin time.Duration
	// statementTimeout bounds every statement; 0 leaves the server's setting.
	statementTimeout time.Duration
}

var _ driver.Connector = connector{}

func newConnector(url string, replyWithin time.Duration) (connector, error) {
	if url == "" {
		return connector{}, errors.New("empty connection string")
	}
	cfg, err := pq.NewConfig(named(url))
	if err != nil {
		// The driver's message may hold the password.
		return connector{}, errors.New("not a connection string (postgres://user:password@host:5432/database)")
	}
	// A query with arguments takes one round trip instead of two (prepare, run).
	cfg.BinaryParameters = true
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	return connector{cfg: cfg, replyWithin: replyWithin}, nil
}

// named returns url with applicationName as the fallback. The driver honours a fallback only if it reads it from the
// connection string.
func named(url string) string {
	const parameter = "fallback_application_name=" + applicationName
	switch {
	case !strings.HasPrefix(url, "postgres://") && !strings.HasPrefix(url, "postgresql://"):
		return url + " " + parameter
	case strings.Contains(url, "?"):
		return url + "&" + parameter
	}
	return url + "?" + parameter
}

// Connect implements driver.Connector.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	inner, err := pq.NewConnectorConfig(c.cfg)
	if err != nil {
		return nil, err
	}
	d := &sessionDialer{watchfulDialer: watchfulDialer{replyWithin: c.replyWithin}}
	inner.Dialer(d)
	// The driver observes ctx only until the TCP connection is established.
	defer context.AfterFunc(ctx, d.giveUp)()
	conn, err := inner.Connect(ctx)
	if err != nil {
		return nil, err
	}
	d.established()
	session, ok := conn.(driver.ExecerContext)
	if !ok {
		return nil, errors.Join(errors.New("database: the driver cannot run statements"), conn.Close())
	}
	settings := sessionSettings
	if c.statementTimeout > 0 {
		settings += fmt.Sprintf(`; SET statement_timeout = %d`, c.statementTimeout.Milliseconds())
	}
	if _, err := session.ExecContext(ctx, settings, nil); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// Driver implements driver.Connector.
func (connector) Driver() driver.Driver { return &pq.Driver{} }

// sessionDialer dials for one session. Once that is established, the driver dials again only to cancel a query whose
// context has ended; from then on the session has cancelGrace left, after which the query fails. The driver does not
// use such a session again.
type sessionDialer struct {
	watchfulDialer

	mu      sync.Mutex
	session net.Conn
	ready   bool
}

var _ pq.DialerContext = (*sessionDialer)(nil)

// established marks later dials as cancellations.
func (d *sessionDialer) established() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ready = true
}

// giveUp aborts the attempt to establish a session.
func (d *sessionDialer) giveUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ready && d.session != nil {
		_ = d.session.SetDeadline(time.Now())
	}
}

// DialContext implements pq.DialerContext.
func (d *sessionDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	cancelling := d.ready
	if cancelling {
		// Deadlines of a connection are in wall-clock time. A closed session cannot have one and needs none.
		_ = d.session.SetDeadline(time.Now().Add(cancelGrace))
	}
	d.mu.Unlock()
	conn, err := d.watchfulDialer.DialContext(ctx, network, address)
	if err == nil && !cancelling {
		d.mu.Lock()
		d.session = conn
		d.mu.Unlock()
	}
	return conn, err
}

// Bounds after which a connection breaks whose other end is gone (data-model.md, Connections). The lock session sets
// the same on the server's side, so that the server releases the locks of a client that is gone.
const (
	keepaliveIdle     = 3 * time.Second
	keepaliveInterval = 2 * time.Second
	keepaliveCount    = 2
	tcpUserTimeout    = 8 * time.Second
)

// dialTimeout bounds one attempt to connect.
const dialTimeout = 5 * time.Second

// watchfulDialer opens connections that notice the loss of their other end. If replyWithin is not 0, every read and
// write must end within it.
type watchfulDialer struct{ replyWithin time.Duration }

var (
	_ pq.Dialer        = watchfulDialer{}
	_ pq.DialerContext = watchfulDialer{}
)

// Dial implements pq.Dialer.
func (d watchfulDialer) Dial(network, address string) (net.Conn, error) {
	return d.DialTimeout(network, address, dialTimeout)
}

// DialTimeout implements pq.Dialer.
func (d watchfulDialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

// DialContext implements pq.DialerContext.
func (d watchfulDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{
		Timeout: dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: keepaliveIdle, Interval: keepaliveInterval, Count: keepaliveCount,
		},
		Control: func(network, _ string, raw syscall.RawConn) error {
			if network == "unix" {
				return nil
			}
			return setUserTimeout(raw)
		},
	}
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil || d.replyWithin == 0 {
		return conn, err
	}
	return boundedConn{Conn: conn, within: d.replyWithin}, nil
}

// setUserTimeout bounds how long sent data may stay unacknowledged. Keepalives do not, because they are sent on an idle
// connection only.
func setUserTimeout(raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(tcpUserTimeout.Milliseconds()))
	})
	if err != nil {
		return err
	}
	return failed
}

// boundedConn is a connection whose every read and write must end in time.
type boundedConn struct {
	net.Conn
	within time.Duration
}

// Read implements net.Conn.
func (c boundedConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.within)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// Write implements net.Conn.
func (c boundedConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.within)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
