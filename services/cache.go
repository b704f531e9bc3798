package services

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// cacheAge is the maximum age of what submitting reads (architecture.md, "Choices made").
	cacheAge = 10 * time.Second
	// fetchTimeout bounds the read behind a cache, which outlives the request that started it.
	fetchTimeout = 10 * time.Second
)

// cache keeps values by key. Concurrent calls of get for one key share one fetch.
type cache[V any] struct {
	clock func() time.Time
	// most is the maximum number of keys.
	most int
	// pause is how long get fetches nothing after a fetch failed, and returns its error instead.
	pause    time.Duration
	fetching singleflight.Group

	mu       sync.Mutex
	held     map[string]cached[V]
	failure  error
	failedAt time.Time
	// drops counts calls of drop, so that a fetch that began before one does not bring back what was dropped.
	drops int
}

type cached[V any] struct {
	value V
	at    time.Time
}

func newCache[V any](clock func() time.Time, most int, pause time.Duration) *cache[V] {
	return &cache[V]{clock: clock, most: most, pause: pause, held: map[string]cached[V]{}}
}

// get returns the value of key, at most maxAge old; fetch reads it.
func (c *cache[V]) get(ctx context.Context, key string, maxAge time.Duration, fetch func(context.Context) (V, error)) (V, error) {
	c.mu.Lock()
	held, known := c.held[key]
	failure, failedAt := c.failure, c.failedAt
	c.mu.Unlock()
	now := c.clock()
	if known && now.Sub(held.at) < maxAge {
		return held.value, nil
	}
	if failure != nil && now.Sub(failedAt) < c.pause {
		return held.value, failure
	}
	fetched := c.fetching.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		c.mu.Lock()
		drops := c.drops
		c.mu.Unlock()
		at := c.clock()
		value, err := fetch(ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.failure, c.failedAt = err, at
		if err == nil && drops == c.drops {
			if len(c.held) >= c.most {
				clear(c.held) // nothing kept for long is lost, and finding the oldest costs more
			}
			c.held[key] = cached[V]{value, at}
		}
		return value, err
	})
	select {
	case r := <-fetched:
		value, _ := r.Val.(V)
		return value, r.Err
	case <-ctx.Done():
		var zero V
		return zero, ctx.Err()
	}
}

// drop makes the next get of key fetch.
func (c *cache[V]) drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, key)
	c.drops++
	c.fetching.Forget(key)
}
