package database_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state/database"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

func newLocker(t testing.TB, url string) *database.Locker {
	t.Helper()
	l, err := database.NewLocker(url, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	return l
}

// lead leads until the test ends.
func lead(t *testing.T, l *database.Locker, name string, fn func(ctx context.Context) error) (stop func()) {
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

// receive returns the next value of a channel, and fails the test if none comes.
func receive[T any](t testing.TB, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("did not receive: %s", what)
	}
	panic("not reached")
}

// newDatabase returns a migrated database and a pool of it.
func newDatabase(t testing.TB) (url string, db *sqlx.DB) {
	t.Helper()
	url = statetest.NewURL(t)
	db, err := database.Open(url, database.PoolConfig{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return url, db
}

// endLockSessions ends the server's side of all sessions that hold a lock.
func endLockSessions(t testing.TB, db *sqlx.DB) {
	t.Helper()
	_, err := db.ExecContext(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_locks
		WHERE locktype = 'advisory' AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
	require.NoError(t, err)
}

// lockSessions returns how many sessions hold a lock.
func lockSessions(t testing.TB, db *sqlx.DB) (n int) {
	t.Helper()
	require.NoError(t, db.GetContext(t.Context(), &n, `SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory'
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`))
	return n
}

func TestOneServerAtATimeLeads(t *testing.T) {
	t.Parallel()
	url, db := newDatabase(t)
	var leaders atomic.Int32
	// If the database ends a session, the next one leads before the old leader can know; it stops within a probe (see
	// the test below). Only with living sessions is there never more than one.
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
		stops[i] = lead(t, newLocker(t, url), "work", leader(i))
	}
	first := receive(t, led, "a first leader")
	stops[first]()
	second := receive(t, led, "a second leader")
	assert.NotEqual(t, first, second)
	sessionsEnded.Store(true)
	endLockSessions(t, db)
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
	url, db := newDatabase(t)
	led, ended := make(chan struct{}), make(chan struct{})
	goOn := make(chan struct{})
	lead(t, newLocker(t, url), "work", func(ctx context.Context) error {
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
	endLockSessions(t, db)
	receive(t, ended, "the end of the leader's context")
	// The old leader has not returned: there may be no new session.
	begin := time.Now()
	for time.Since(begin) < 1500*time.Millisecond {
		require.Zero(t, lockSessions(t, db))
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

// waitAtLock begins maintenance work that waits for an advisory lock, which a session of db holds until the test ends.
func waitAtLock(t *testing.T, db *sqlx.DB, url string, key int64,
	work func(ctx context.Context, url string, logger *slog.Logger) error,
) {
	t.Helper()
	conn, err := db.Connx(t.Context())
	require.NoError(t, err)
	_, err = conn.ExecContext(t.Context(), `SELECT pg_advisory_lock($1)`, key)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- work(ctx, url, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		require.Error(t, <-done)
		_, err := conn.ExecContext(context.WithoutCancel(t.Context()), `SELECT pg_advisory_unlock($1)`, key)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	})
	require.Eventually(t, func() bool {
		var waiting bool
		require.NoError(t, db.GetContext(t.Context(), &waiting, `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND query = 'SELECT pg_try_advisory_lock($1)')`))
		return waiting
	}, patience, 20*time.Millisecond)
}

func TestOneSessionHoldsAllLocksOfAServer(t *testing.T) {
	t.Parallel()
	const names = 50
	url, db := newDatabase(t)
	ledBy := make(chan [2]int, 1000) // server, name
	ended := make(chan struct{}, 1000)
	for server := range 2 {
		locker := newLocker(t, url)
		for name := range names {
			lead(t, locker, fmt.Sprintf("follow/%d", name), func(ctx context.Context) error {
				ledBy <- [2]int{server, name}
				<-ctx.Done()
				ended <- struct{}{}
				return nil
			})
		}
	}
	allLed := func() {
		for led := map[int]bool{}; len(led) < names; {
			led[receive(t, ledBy, "leaders of all locks")[1]] = true
		}
	}
	allLed()
	held := func() (n int) {
		require.NoError(t, db.GetContext(t.Context(), &n, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`))
		return n
	}
	assert.Equal(t, names, held())
	assert.LessOrEqual(t, lockSessions(t, db), 2)
	var sessions int
	require.NoError(t, db.GetContext(t.Context(), &sessions, `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid()`))
	assert.LessOrEqual(t, sessions, 3, "one for each server, and the pool of this test")

	endLockSessions(t, db)
	for range names {
		receive(t, ended, "the end of all leaders")
	}
	allLed()
	assert.Equal(t, names, held())
}

func TestALockThatIsLetGoLeavesTheOthersHeld(t *testing.T) {
	t.Parallel()
	url, db := newDatabase(t)
	locker := newLocker(t, url)
	stays, goes, lost := make(chan struct{}, 10), make(chan struct{}, 10), make(chan struct{}, 10)
	lead(t, locker, "stays", func(ctx context.Context) error {
		stays <- struct{}{}
		<-ctx.Done()
		lost <- struct{}{}
		return nil
	})
	stop := lead(t, locker, "goes", func(ctx context.Context) error {
		goes <- struct{}{}
		<-ctx.Done()
		return nil
	})
	receive(t, stays, "the lead of one")
	receive(t, goes, "the lead of the other")
	stop()
	other := make(chan struct{}, 10)
	lead(t, newLocker(t, url), "goes", func(ctx context.Context) error {
		other <- struct{}{}
		<-ctx.Done()
		return nil
	})
	receive(t, other, "the lead of another server")
	assert.Empty(t, lost)
	assert.Equal(t, 2, lockSessions(t, db))
}

func TestOneServerDoesNotLeadTheSameTwiceAtOnce(t *testing.T) {
	t.Parallel()
	url, _ := newDatabase(t)
	locker := newLocker(t, url)
	led := make(chan struct{}, 10)
	leader := func(ctx context.Context) error {
		led <- struct{}{}
		<-ctx.Done()
		return nil
	}
	stop := lead(t, locker, "work", leader)
	receive(t, led, "the lead")
	lead(t, locker, "work", leader)
	<-time.After(1500 * time.Millisecond) // more than one try
	assert.Empty(t, led)
	stop()
	receive(t, led, "the lead of the second")
}

// stallingProxy passes bytes to a server until it is stalled. The connections stay open, as when a network is cut.
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

func TestLockHeldReportsWhetherAnyServerLeads(t *testing.T) {
	t.Parallel()
	url, db := newDatabase(t)
	held := func(name string) bool {
		got, err := database.LockHeld(t.Context(), db.DB, name)
		require.NoError(t, err)
		return got
	}
	// Both signs of the key's hash.
	for _, name := range []string{"sweep", "submit", "follow/a", "follow/b"} {
		assert.False(t, held(name))
		began := make(chan struct{})
		stop := lead(t, newLocker(t, url), name, func(ctx context.Context) error { close(began); <-ctx.Done(); return nil })
		receive(t, began, "leading "+name)
		assert.True(t, held(name), name)
		stop()
		require.Eventually(t, func() bool { return !held(name) }, patience, 10*time.Millisecond, name)
	}
}
