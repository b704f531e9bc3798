package adapter

import (
	"hash/maphash"
	"sync"
)

// maxRecentRuns is how many runs are remembered: more than wait for a full cluster at one time in practice.
const maxRecentRuns = 10_000

// recentRuns remembers the runs that were sized last. A run that its cluster defers is sized anew each time it is
// submitted, and must still be measured once. It keeps hashes of the ids, which take a quarter of the memory: that two
// of them are equal has a chance of one in 10^15, and would cost one measurement.
type recentRuns struct {
	seed  maphash.Seed
	mu    sync.Mutex
	known map[uint64]struct{}
	ring  []uint64 // in the order of arrival, from next on
	next  int
}

func newRecentRuns(capacity int) *recentRuns {
	return &recentRuns{
		seed: maphash.MakeSeed(), known: make(map[uint64]struct{}, capacity), ring: make([]uint64, 0, capacity),
	}
}

// add says whether the run is new, and remembers it.
func (r *recentRuns) add(runID string) bool {
	id := maphash.String(r.seed, runID)
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.known[id]; known {
		return false
	}
	r.known[id] = struct{}{}
	if len(r.ring) < cap(r.ring) {
		r.ring = append(r.ring, id)
		return true
	}
	delete(r.known, r.ring[r.next])
	r.ring[r.next] = id
	r.next = (r.next + 1) % len(r.ring)
	return true
}
