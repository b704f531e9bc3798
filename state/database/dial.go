package database

import (
	"context"
	"net"
	"syscall"
	"time"

	"github.com/lib/pq"
	"golang.org/x/sys/unix"
)

// Bounds after which a connection breaks whose other end is gone (data-model.md,
// Connections). The lock session sets the same on the server's side, so that
// the server lets go of the locks of a client that is gone.
const (
	keepaliveIdle     = 3 * time.Second
	keepaliveInterval = 2 * time.Second
	keepaliveCount    = 2
	tcpUserTimeout    = 8 * time.Second
)

// dialTimeout bounds one attempt to connect.
const dialTimeout = 5 * time.Second

// watchfulDialer opens connections that notice the loss of their other end.
// If replyWithin is not 0, every read and write must end within it.
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

// setUserTimeout bounds how long sent data may stay unacknowledged, which
// keepalives do not: they are sent on an idle connection only.
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
