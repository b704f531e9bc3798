//go:build kube

package e2e

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// relay is the way to an API server, which a test can close.
type relay struct {
	t       testing.TB
	address string
	to      string
	owned   sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener
	open     map[net.Conn]bool
	closed   bool
	frozen   chan struct{} // closed while bytes may pass
}

// url is where servers find the API server.
func (r *relay) url() string { return "https://" + r.address }

func newRelay(t testing.TB, to string) *relay {
	t.Helper()
	r := &relay{t: t, to: to, open: map[net.Conn]bool{}, frozen: make(chan struct{})}
	close(r.frozen)
	r.listen("127.0.0.1:0")
	r.address = r.listener.Addr().String()
	t.Cleanup(func() {
		r.cut()
		r.thaw()
		r.owned.Wait()
	})
	return r
}

func (r *relay) listen(address string) {
	listener, err := net.Listen("tcp", address)
	require.NoError(r.t, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listener, r.closed = listener, false
	r.owned.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // cut
			}
			r.owned.Go(func() { r.pass(conn) })
		}
	})
}

// pass carries one connection's bytes both ways until either end closes.
func (r *relay) pass(client net.Conn) {
	server, err := net.Dial("tcp", r.to)
	if err != nil {
		_ = client.Close()
		return
	}
	r.mu.Lock()
	r.open[client], r.open[server] = true, true
	if r.closed { // while we called the server
		_, _ = client.Close(), server.Close()
	}
	r.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { r.carry(client, server) })
	both.Go(func() { r.carry(server, client) })
	both.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, client)
	delete(r.open, server)
}

func (r *relay) carry(from, to net.Conn) {
	defer func() { _, _ = from.Close(), to.Close() }()
	_, _ = io.Copy(gate{r, to}, from)
}

// gate lets bytes wait while the relay is frozen.
type gate struct {
	r  *relay
	to net.Conn
}

// Write implements io.Writer.
func (g gate) Write(p []byte) (int, error) {
	g.r.mu.Lock()
	frozen := g.r.frozen
	g.r.mu.Unlock()
	<-frozen
	return g.to.Write(p)
}

// cut ends all connections and refuses new ones: the API server's process is gone.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	_ = r.listener.Close()
	for conn := range r.open {
		_ = conn.Close()
	}
}

// restore ends a cut.
func (r *relay) restore() { r.listen(r.address) }

// freeze keeps all connections and takes new ones, and lets nothing through: the network or the API server hangs.
func (r *relay) freeze() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frozen = make(chan struct{})
}

// thaw ends a freeze.
func (r *relay) thaw() {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.frozen:
	default:
		close(r.frozen)
	}
}
