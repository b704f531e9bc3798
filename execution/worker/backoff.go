package worker

import (
	"context"
	"time"

	"github.com/stitchfix/flotilla-os/execution/engine"
)

// How long a loop that failed waits before it tries again; the wait doubles
// from the first to the longest.
const (
	firstBackoff   = time.Second
	longestBackoff = 10 * time.Second
)

// backoff grows with each failure in a row.
type backoff struct{ last time.Duration }

func (b *backoff) next() time.Duration {
	b.last = min(max(2*b.last, firstBackoff), longestBackoff)
	return b.last
}

func (b *backoff) reset() { b.last = 0 }

// outlive is a context that lasts for grace after ctx has ended, so that what
// is under way can be finished.
func outlive(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { engine.Pause(longer, grace); cancel() })
	return longer, func() { stop(); cancel() }
}
