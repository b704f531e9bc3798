package state

import (
	"context"
	"database/sql/driver"
	"net"
	"sync"
	"time"

	"github.com/lib/pq"
)

// cancelGrace is how long a query whose context has ended may take to end,
// too. A database that is frozen, or that no packet reaches any more, never
// says that it has ended.
const cancelGrace = 500 * time.Millisecond

// poolConnector opens the sessions of a pool, each with a dialer of its own.
type poolConnector struct{ cfg pq.Config }

var _ driver.Connector = poolConnector{}

// Connect implements driver.Connector.
func (c poolConnector) Connect(ctx context.Context) (driver.Conn, error) {
	inner, err := pq.NewConnectorConfig(c.cfg)
	if err != nil {
		return nil, err
	}
	d := &sessionDialer{}
	inner.Dialer(d)
	// The driver looks at ctx only until the server's machine has answered.
	defer context.AfterFunc(ctx, d.giveUp)()
	return connector{inner, d.established}.Connect(ctx)
}

// Driver implements driver.Connector.
func (poolConnector) Driver() driver.Driver { return &pq.Driver{} }

// sessionDialer dials for one session. Once that is established, the driver
// dials again only to have a query cancelled whose context has ended; from then
// on the session has cancelGrace left, after which its query fails. The driver
// does not use such a session again.
type sessionDialer struct {
	watchfulDialer

	mu      sync.Mutex
	session net.Conn
	ready   bool
}

var _ pq.DialerContext = (*sessionDialer)(nil)

// established ends the phase in which a dial is one for the session.
func (d *sessionDialer) established() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ready = true
}

// giveUp ends the attempt to establish a session.
func (d *sessionDialer) giveUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ready && d.session != nil {
		_ = d.session.SetDeadline(time.Now())
	}
}

// DialContext implements pq.DialerContext.
func (d *sessionDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if d.expire() {
		return d.watchfulDialer.DialContext(ctx, network, address)
	}
	conn, err := d.watchfulDialer.DialContext(ctx, network, address)
	if err == nil {
		d.mu.Lock()
		d.session = conn
		d.mu.Unlock()
	}
	return conn, err
}

// expire gives an established session its last moments, and reports whether
// there is one.
func (d *sessionDialer) expire() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ready {
		// Deadlines of a connection are of the wall clock. A session that is
		// closed already cannot have one and needs none.
		_ = d.session.SetDeadline(time.Now().Add(cancelGrace))
	}
	return d.ready
}
