package worker

import (
	"context"
	"log/slog"
	"time"
)

// What waits after a failure waits from firstBackoff to longestBackoff, doubling with each failure in a row.
const (
	firstBackoff   = 250 * time.Millisecond
	longestBackoff = 10 * time.Second
)

// A failing Loop logs an error with another text, or after a long Step, no sooner than otherError after the last, and
// waits twice as long each time, up to rarestError: texts may hold what differs each time, such as a port.
const (
	otherError  = 10 * time.Second
	rarestError = time.Hour
)

// Loop is everything periodic: it calls Step, pauses, and calls it again. A Step that fails is called again with a
// growing delay; its first failure, a different one, and its recovery are logged once each.
type Loop struct {
	// What names the failure in the log, such as "cannot claim runs".
	What   string
	Step   func(ctx context.Context) error
	Logger *slog.Logger
	// Every is the pause after a Step that succeeded.
	Every time.Duration
	// Woken ends that pause early; nil never does. A failure is waited for in any case.
	Woken <-chan struct{}
	// Timed gets the duration of each Step; nil for none.
	Timed func(time.Duration)
	// Clock is time.Now if nil.
	Clock func() time.Time

	backoff time.Duration // 0 while Step succeeds
	logged  string        // the last error's text
	at      time.Time     // when it was logged
	quiet   time.Duration // how long no other failure is logged
}

// Run calls Step until ctx ends, and returns nil then.
func (l *Loop) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		wait, woken := l.once(ctx), l.Woken
		if l.backoff > 0 {
			woken = nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-woken:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// once calls Step and returns how long to wait before it is called again. A Step that worked for a long time before it
// failed, such as one that follows a cluster, begins with the first delay again.
func (l *Loop) once(ctx context.Context) time.Duration {
	clock := l.Clock
	if clock == nil {
		clock = time.Now
	}
	began := clock()
	err := l.Step(ctx)
	now := clock()
	if ctx.Err() != nil {
		return 0
	}
	if l.Timed != nil {
		l.Timed(now.Sub(began))
	}
	if err == nil {
		if l.backoff > 0 {
			l.Logger.Info("works again", "what", l.What)
		}
		l.backoff, l.logged, l.quiet = 0, "", 0
		return l.Every
	}
	worked := now.Sub(began) > longestBackoff
	if worked {
		l.backoff = 0
	}
	if text := err.Error(); l.logged == "" || (worked || text != l.logged) && now.Sub(l.at) >= l.quiet {
		l.logged, l.at, l.quiet = text, now, min(max(2*l.quiet, otherError), rarestError)
		l.Logger.Warn("failed and is tried again", "what", l.What, "error", err)
	}
	l.backoff = min(max(2*l.backoff, firstBackoff), longestBackoff)
	return l.backoff
}
