package state_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

func newLocker(t testing.TB, url string) *state.Locker {
	t.Helper()
	l, err := state.NewLocker(state.LockerConfig{URL: url, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	return l
}

// lead leads until the test ends.
func lead(t *testing.T, l *state.Locker, name string, fn func(ctx context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Lead(ctx, name, fn) }()
	stop = sync.OnceFunc(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	t.Cleanup(stop)
	return stop
}

// receive waits for a value that must come.
func receive[T any](t testing.TB, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for: %s", what)
	}
	panic("not reached")
}

// endLockSessions ends the server's side of all sessions that hold a lock.
func (s store) endLockSessions(t testing.TB) {
	t.Helper()
	s.exec(t, `SELECT pg_terminate_backend(pid) FROM pg_locks
		WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
}

func TestOneServerAtATimeLeads(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var leaders atomic.Int32
	// A session that the database ends lets the next one lead before the old
	// leader can know; it stops within a probe (see the test below). Only with
	// living sessions is there never more than one.
	var sessionsEnded atomic.Bool
	led := make(chan int, 100)
	leader := func(i int) func(ctx context.Context) error {
		return func(ctx context.Context) error {
			if now := leaders.Add(1); !sessionsEnded.Load() {
				assert.Equal(t, int32(1), now, "two lead at once")
			}
			led <- i
			<-ctx.Done()
			leaders.Add(-1)
			return nil
		}
	}
	stops := map[int]func(){}
	for i := range 3 {
		stops[i] = lead(t, newLocker(t, s.url), "work", leader(i))
	}
	first := receive(t, led, "a first leader")
	stops[first]()
	second := receive(t, led, "a second leader")
	assert.NotEqual(t, first, second)
	sessionsEnded.Store(true)
	s.endLockSessions(t)
	receive(t, led, "a leader after the session was ended")
}

func TestDifferentLocksAreLedAtTheSameTime(t *testing.T) {
	t.Parallel()
	url := statetest.NewURL(t)
	led := make(chan string, 2)
	for _, name := range []string{"follow/a", "follow/b"} {
		lead(t, newLocker(t, url), name, func(ctx context.Context) error {
			led <- name
			<-ctx.Done()
			return nil
		})
	}
	got := []string{receive(t, led, "one"), receive(t, led, "the other")}
	assert.ElementsMatch(t, []string{"follow/a", "follow/b"}, got)
}

func TestALeaderThatLostItsSessionStopsBeforeItLeadsAgain(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	led, ended := make(chan struct{}), make(chan struct{})
	goOn := make(chan struct{})
	lead(t, newLocker(t, s.url), "work", func(ctx context.Context) error {
		select {
		case led <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		<-ctx.Done()
		select {
		case ended <- struct{}{}:
			<-goOn
		case <-t.Context().Done():
		}
		return nil
	})
	receive(t, led, "the lead")
	s.endLockSessions(t)
	receive(t, ended, "the end of the leader's context")
	// The old leader has not returned: there may be no new session.
	begin := time.Now()
	for time.Since(begin) < 1500*time.Millisecond {
		require.Zero(t, ask[int](t, s, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`))
	}
	close(goOn)
	receive(t, led, "the lead again")
}

func TestALeaderThatFailsLeadsAgain(t *testing.T) {
	t.Parallel()
	led := make(chan struct{}, 100)
	lead(t, newLocker(t, statetest.NewURL(t)), "work", func(context.Context) error {
		led <- struct{}{}
		return errors.New("cannot go on")
	})
	receive(t, led, "the lead")
	receive(t, led, "the lead again")
}

// stallingProxy passes bytes to a server until it is told to pass no more; the
// connections stay open, as when a network is cut.
type stallingProxy struct {
	listener net.Listener
	stalled  atomic.Bool
	all      sync.WaitGroup
}

func newStallingProxy(t *testing.T, target string) *stallingProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &stallingProxy{listener: listener}
	ctx, cancel := context.WithCancel(context.Background())
	p.all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				_ = client.Close()
				continue
			}
			context.AfterFunc(ctx, func() { _ = errors.Join(client.Close(), server.Close()) })
			p.all.Go(func() { p.pass(server, client) })
			p.all.Go(func() { p.pass(client, server) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		cancel()
		p.all.Wait()
	})
	return p
}

func (p *stallingProxy) pass(to io.Writer, from io.Reader) {
	buffer := make([]byte, 4096)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if p.stalled.Load() {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func TestALeaderStopsWhenItsDatabaseFallsSilent(t *testing.T) {
	t.Parallel()
	direct, err := url.Parse(statetest.NewURL(t))
	require.NoError(t, err)
	proxy := newStallingProxy(t, direct.Host)
	through := *direct
	through.Host = proxy.listener.Addr().String()
	led, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	lead(t, newLocker(t, through.String()), "work", func(ctx context.Context) error {
		led <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
		return nil
	})
	receive(t, led, "the lead")
	proxy.stalled.Store(true)
	begin := time.Now()
	receive(t, ended, "the end of the leader's context")
	assert.Less(t, time.Since(begin), 7*time.Second, "the server gives the lock to another after 7 seconds")
}
