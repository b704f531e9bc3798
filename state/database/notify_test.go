package database_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/lib/pq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state/database"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

// patience bounds the wait for an event.
const patience = 30 * time.Second

// runNotifier starts a notifier that ends with the test.
func runNotifier(t *testing.T, url string) *database.Notifier {
	t.Helper()
	n, err := database.NewNotifier(url, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	return n
}

// wakesOther wakes from one server until the other's subscriber receives it. Wakes sent before the other listens are
// lost.
func wakesOther(t *testing.T, from *database.Notifier, heard <-chan struct{}) {
	t.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(patience)
	for {
		from.Wake()
		select {
		case <-heard:
			return
		case <-ticker.C:
		case <-deadline:
			t.Fatal("a wake did not arrive")
		}
	}
}

func TestAWakeReachesThisServerAtOnceAndTheOthersSoon(t *testing.T) {
	t.Parallel()
	url := statetest.NewURL(t)
	here, there := runNotifier(t, url), runNotifier(t, url)
	local, cancel := here.Subscribe()
	defer cancel()
	here.Wake()
	select {
	case <-local:
	default:
		t.Fatal("a local wake must not wait")
	}
	remote, cancel := there.Subscribe()
	defer cancel()
	wakesOther(t, here, remote)
}

func TestAnEndedSubscriptionReceivesNothing(t *testing.T) {
	t.Parallel()
	n, err := database.NewNotifier("postgres://h/d", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	wakes, cancel := n.Subscribe()
	cancel()
	n.Wake()
	assert.Empty(t, wakes)
}

func TestManyWakesAreFewNotifications(t *testing.T) {
	t.Parallel()
	url := statetest.NewURL(t)
	n := runNotifier(t, url)
	listener := pq.NewListener(url, time.Millisecond, time.Second, nil)
	defer func() {
		require.NoError(t, listener.Close())
		for range listener.Notify {
		}
	}()
	require.NoError(t, listener.Listen("flotilla_runs"))
	n.Wake()
	<-listener.Notify // it is connected now

	heard, begin := 0, time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for time.Since(begin) < 300*time.Millisecond {
		n.Wake()
		select {
		case <-listener.Notify:
			heard++
		case <-tick.C:
		}
	}
	assert.Positive(t, heard)
	assert.LessOrEqual(t, heard, int(time.Since(begin)/(20*time.Millisecond))+1)
}

func TestWakesArriveAgainWhenPostgresIsBack(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	url := server.CreateDatabase("wakes")
	here, there := runNotifier(t, url), runNotifier(t, url)
	remote, cancel := there.Subscribe()
	defer cancel()
	local, cancelLocal := here.Subscribe()
	defer cancelLocal()
	wakesOther(t, here, remote)

	server.Kill()
	for len(local) > 0 {
		<-local
	}
	here.Wake()
	assert.Len(t, local, 1, "local wakes need no database")

	server.Start()
	// The gap itself is a wake, because one may have been missed in it.
	select {
	case <-remote:
	case <-time.After(patience):
		t.Fatal("the gap did not wake the subscriber")
	}
	wakesOther(t, here, remote)
}
