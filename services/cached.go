package services

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// Submitting a run reads caches of this age at most (architecture.md, "Choices
// made").
const cacheAge = 10 * time.Second

// fetchTimeout bounds the read behind a cache, which outlives the request that
// happened to start it.
const fetchTimeout = 10 * time.Second

// cached keeps a value for a while. However many ask at once, one fetches.
type cached[T any] struct {
	fetch func(ctx context.Context) (T, error)
	clock func() time.Time
	group singleflight.Group

	mu    sync.Mutex
	value T
	at    time.Time
	held  bool
	// generation counts drops, so that a fetch that began before one does not
	// bring back what was dropped.
	generation int
}

// get is the value, at most maxAge old.
func (c *cached[T]) get(ctx context.Context, maxAge time.Duration) (T, error) {
	c.mu.Lock()
	value, fresh := c.value, c.held && c.clock().Sub(c.at) < maxAge
	c.mu.Unlock()
	if fresh {
		return value, nil
	}
	done := c.group.DoChan("", func() (any, error) { return c.refresh(context.WithoutCancel(ctx)) })
	select {
	case r := <-done:
		if r.Err != nil {
			var zero T
			return zero, r.Err
		}
		value, _ := r.Val.(T) // refresh answers nothing else
		return value, nil
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}

func (c *cached[T]) refresh(ctx context.Context) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	c.mu.Lock()
	generation := c.generation
	c.mu.Unlock()
	at := c.clock()
	value, err := c.fetch(ctx)
	if err != nil {
		return value, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.generation == generation {
		c.value, c.at, c.held = value, at, true
	}
	return value, nil
}

// drop makes the next get fetch.
func (c *cached[T]) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = false
	c.generation++
	c.group.Forget("")
}

// cachedBy keeps a value per key for a while, see cached.
type cachedBy[K comparable, T any] struct {
	fetch func(ctx context.Context, key K) (T, error)
	clock func() time.Time
	// most bounds the number of keys, for memory.
	most int

	mu     sync.Mutex
	values map[K]*cached[T]
}

// get is the value of key, at most maxAge old.
func (c *cachedBy[K, T]) get(ctx context.Context, key K, maxAge time.Duration) (T, error) {
	value, err := c.of(key).get(ctx, maxAge)
	if err != nil {
		c.drop(key) // keys of which nothing is known are not kept
	}
	return value, err
}

// drop makes the next get of key fetch.
func (c *cachedBy[K, T]) drop(key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.values, key)
}

func (c *cachedBy[K, T]) of(key K) *cached[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if value, known := c.values[key]; known {
		return value
	}
	if c.values == nil || len(c.values) >= c.most {
		// Nothing kept for long is lost; a list of what is oldest costs more.
		c.values = map[K]*cached[T]{}
	}
	value := &cached[T]{fetch: func(ctx context.Context) (T, error) { return c.fetch(ctx, key) }, clock: c.clock}
	c.values[key] = value
	return value
}
