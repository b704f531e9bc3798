package adapter

import "sync"

// maxRecentRuns is how many runs are remembered: more than wait for a full cluster at one time in practice, and below
// 2 MB of memory.
const maxRecentRuns = 10_000

// recentRuns remembers the runs that were sized last. A run that its cluster defers is sized anew each time it is
// submitted, and must still be measured once.
type recentRuns struct {
	mu    sync.Mutex
	known map[string]bool
	ring  []string // in the order of arrival, from next on
	next  int
}

func newRecentRuns(capacity int) *recentRuns {
	return &recentRuns{known: map[string]bool{}, ring: make([]string, capacity)}
}

// add says whether the run is new, and remembers it.
func (r *recentRuns) add(runID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known[runID] {
		return false
	}
	delete(r.known, r.ring[r.next])
	r.known[runID], r.ring[r.next] = true, runID
	r.next = (r.next + 1) % len(r.ring)
	return true
}
