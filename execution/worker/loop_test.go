package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/stitchfix/flotilla-os/testkit"
)

func TestLoopLogsAFailureOnceAndItsRecovery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		logs := &testkit.Log{}
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		var calls []time.Duration
		l := &Loop{What: "cannot count", Every: time.Second, Logger: slog.New(slog.NewTextHandler(logs, nil)), Step: func(context.Context) error {
			calls = append(calls, time.Since(began))
			switch n := len(calls); {
			case n <= 5:
				return errors.New("no database")
			case n == 6: // more than otherError after the first
				return errors.New("no table")
			case n == 8:
				cancel()
			}
			return nil
		}}
		assert.NoError(t, l.Run(ctx))
		const ms = time.Millisecond
		assert.Equal(t, []time.Duration{0, 250 * ms, 750 * ms, 1750 * ms, 3750 * ms, 7750 * ms, 15_750 * ms, 16_750 * ms}, calls)
		text := logs.String()
		assert.Equal(t, 1, strings.Count(text, "no database"), text)
		assert.Equal(t, 1, strings.Count(text, "works again"), text)
		assert.NotContains(t, text, "no table", "another error so soon is not logged")
	})
}

func TestLoopLogsAnotherErrorLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		logs := &testkit.Log{}
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		l := &Loop{What: "cannot count", Logger: slog.New(slog.NewTextHandler(logs, nil)), Step: func(context.Context) error {
			if calls++; calls > 8 {
				cancel()
			}
			if calls > 7 {
				return errors.New("no table")
			}
			return errors.New("no database")
		}}
		assert.NoError(t, l.Run(ctx))
		assert.Equal(t, 1, strings.Count(logs.String(), "no table"), logs.String())
	})
}

func TestLoopLogsErrorsThatDifferEachTimeLessAndLess(t *testing.T) {
	t.Parallel()
	for name, step := range map[string]func() error{
		"another text": func() error { return fmt.Errorf("no such host at %s", time.Now()) },
		"a long step":  func() error { <-time.After(time.Minute); return errors.New("no such host") },
	} {
		synctest.Test(t, func(t *testing.T) {
			logs := &testkit.Log{}
			ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
			defer cancel()
			l := &Loop{What: "cannot follow", Logger: slog.New(slog.NewTextHandler(logs, nil)), Step: func(context.Context) error { return step() }}
			assert.NoError(t, l.Run(ctx))
			count := strings.Count(logs.String(), "no such host")
			assert.Greater(t, count, 20, name)
			assert.Less(t, count, 40, name)
		})
	}
}

func TestLoopIsWokenButNotAfterAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		woken := make(chan struct{}, 1)
		ctx, cancel := context.WithCancel(t.Context())
		began, calls := time.Now(), 0
		l := &Loop{What: "w", Every: time.Hour, Woken: woken, Logger: slog.New(slog.DiscardHandler), Step: func(context.Context) error {
			calls++
			switch calls {
			case 1:
				woken <- struct{}{}
				return nil
			case 2:
				assert.Zero(t, time.Since(began), "woken at once")
				woken <- struct{}{}
				return errors.New("no database")
			}
			assert.Equal(t, firstBackoff, time.Since(began), "a failure is waited for")
			cancel()
			return nil
		}}
		assert.NoError(t, l.Run(ctx))
		assert.Equal(t, 3, calls)
	})
}

func TestLoopThatWorkedForLongBeginsWithTheFirstDelayAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &Loop{What: "w", Logger: slog.New(slog.DiscardHandler), backoff: longestBackoff, Step: func(context.Context) error {
			<-time.After(time.Minute)
			return errors.New("watch closed")
		}}
		assert.Equal(t, firstBackoff, l.once(t.Context()))
	})
}
