//go:build kube

package e2e

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

// outage is the time for which the API server is away.
const outage = 30 * time.Second

// TestKubeAPIServerAway takes the API server away while runs are queued, wait, run, end and are stopped.
func TestKubeAPIServerAway(t *testing.T) {
	for name, away := range map[string]struct{ begin, end func(*relay) }{
		"its process is gone": {(*relay).cut, (*relay).restore},
		"it hangs":            {(*relay).freeze, (*relay).thaw},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newKubeSite(t)
			server := s.serve("a")
			definition := server.define("true")
			launch := func(command string) string { return server.run(definition, object{"command": command}) }
			codes := map[string]int64{}
			before := launch(hello + "; exit 1")
			codes[before] = 1
			server.awaitStopped(before)
			meanwhile, longer, stopped := launch("sleep 15; exit 2"), launch("sleep 45; exit 3"), launch("sleep 1000")
			codes[meanwhile], codes[longer], codes[stopped] = 2, 3, 1
			for _, id := range []string{meanwhile, longer, stopped} {
				server.awaitStatus(id, state.StatusRunning)
			}

			away.begin(s.api)
			began := time.Now()
			queued, queuedToo := launch("exit 4"), launch("exit 5")
			codes[queued], codes[queuedToo] = 4, 5
			server.terminate(stopped)
			server.awaitStopped(stopped)
			s.await("the end of a run that the server cannot see", func() bool { return !s.seen.endedAt(meanwhile).IsZero() })
			pass(t.Context(), outage-time.Since(began))
			assertNothingInvented(s, meanwhile, longer, queued, queuedToo)
			away.end(s.api)

			for _, r := range s.awaitRuns(len(codes), state.StatusStopped) {
				assert.Equal(t, codes[r.id], r.code.Int64, "%v", r)
				assert.True(t, r.code.Valid, "%v", r)
				assert.LessOrEqual(t, r.attempt.Int64, int64(1), "%v", r)
			}
			assert.Contains(t, server.log(before), "hello from the run")
			s.awaitNoPods()
			s.seen.onceEach(t, before, meanwhile, longer, stopped, queued, queuedToo)
		})
	}
}

// assertNothingInvented checks that runs which the server cannot see have not ended.
func assertNothingInvented(s *kubeSite, ids ...string) {
	s.t.Helper()
	all, err := s.rows(s.t.Context())
	require.NoError(s.t, err)
	for _, r := range all {
		for _, id := range ids {
			if r.id == id {
				assert.NotEqual(s.t, string(state.StatusStopped), r.status, "%v", r)
				assert.NotEqual(s.t, string(state.StatusNeedsRetry), r.status, "%v", r)
			}
		}
	}
}

// pass waits for d or until ctx ends.
func pass(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// relay carries connections to an API server until a test cuts or freezes them.
type relay struct {
	t       testing.TB
	address string
	to      string
	owned   sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener
	open     map[net.Conn]bool
	closed   bool
	frozen   chan struct{} // closed while bytes are carried
}

// url returns the address at which servers reach the API server.
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
			r.owned.Go(func() { r.forward(conn) })
		}
	})
}

// forward carries one connection's bytes both ways until either end closes.
func (r *relay) forward(client net.Conn) {
	server, err := net.Dial("tcp", r.to)
	if err != nil {
		_ = client.Close()
		return
	}
	r.mu.Lock()
	r.open[client], r.open[server] = true, true
	if r.closed { // cut while the server was dialled
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

// gate holds bytes back while the relay is frozen.
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

// cut closes all connections and refuses new ones, as if the API server's process had ended.
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

// freeze accepts connections but carries no bytes, as if the network or the API server hung.
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
