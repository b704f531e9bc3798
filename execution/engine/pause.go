package engine

import (
	"context"
	"time"
)

// Pause waits, and answers false when ctx ended instead.
func Pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
