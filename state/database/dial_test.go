package database

import (
	"database/sql"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
)

func TestBothEndsOfALockSessionNoticeTheLossOfTheOther(t *testing.T) {
	t.Parallel()
	c, err := newConnector(pgtest.New(t).URL, sessionReply)
	require.NoError(t, err)
	db := sql.OpenDB(c)
	defer func() { require.NoError(t, db.Close()) }()
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	require.NoError(t, bound(t.Context(), conn))
	for setting, want := range map[string]string{
		"tcp_keepalives_idle": "3", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "2", "tcp_user_timeout": "8000",
	} {
		var got string
		require.NoError(t, conn.QueryRowContext(t.Context(), `SELECT setting FROM pg_settings WHERE name = $1`, setting).Scan(&got))
		assert.Equal(t, want, got, setting)
	}
}

func TestTheWatchfulDialerSetsItsSocketOptions(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	conn, err := watchfulDialer{}.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	socket, ok := conn.(syscall.Conn)
	require.True(t, ok)
	raw, err := socket.SyscallConn()
	require.NoError(t, err)
	for name, want := range map[int]int{
		unix.TCP_KEEPIDLE: 3, unix.TCP_KEEPINTVL: 2, unix.TCP_KEEPCNT: 2, unix.TCP_USER_TIMEOUT: 8000,
	} {
		require.NoError(t, raw.Control(func(fd uintptr) {
			got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, name)
			assert.NoError(t, err)
			assert.Equal(t, want, got)
		}))
	}
}

func TestABoundedConnectionDoesNotWaitForeverForAReply(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	conn, err := watchfulDialer{replyWithin: 50 * time.Millisecond}.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	_, err = conn.Read(make([]byte, 1))
	var netErr net.Error
	require.ErrorAs(t, err, &netErr)
	assert.True(t, netErr.Timeout())
}
