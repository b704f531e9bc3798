package local

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stitchfix/flotilla-os/state"
)

// ticket is one attempt on its way through admission.
type ticket struct {
	runID    string
	attempt  int
	queuedAt time.Time
	request  state.Size
	// explained reports that the row says that the run waits for capacity.
	explained bool
}

func (t ticket) compare(other ticket) int {
	if c := t.queuedAt.Compare(other.queuedAt); c != 0 {
		return c
	}
	return strings.Compare(t.runID, other.runID)
}

// admission decides which attempts may run at once. It is strict FIFO by the time of queueing, so small runs cannot
// starve a large one.
type admission struct {
	capacity state.Size

	mu      sync.Mutex
	used    state.Size
	waiting []ticket
	// active are the attempts that hold a share.
	active map[string]ticket
	// accepting are the runs whose acceptance is not known to be committed yet.
	accepting map[string]bool
}

func newAdmission(capacity state.Size) *admission {
	return &admission{capacity: capacity, active: map[string]ticket{}, accepting: map[string]bool{}}
}

// announce registers an attempt whose acceptance is about to be committed. It returns known if admission has the run
// already, and reserved if the attempt got its share and may start with the commit: immediate asks for that, and it is
// granted if the attempt fits and none waits.
func (a *admission) announce(t ticket, immediate bool) (known, reserved bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.knows(t.runID) {
		return true, false
	}
	a.accepting[t.runID] = true
	if immediate && len(a.waiting) == 0 && a.fits(t) {
		a.take(t)
		return false, true
	}
	return false, false
}

// settle ends what announce began. With wait, the attempt joins the queue.
func (a *admission) settle(t ticket, wait bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.accepting, t.runID)
	if wait {
		a.enqueue(t)
	}
}

// enqueueNew adds an attempt to the queue. It returns false if admission has the run already.
func (a *admission) enqueueNew(t ticket) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.knows(t.runID) {
		return false
	}
	a.enqueue(t)
	return true
}

// resume gives an attempt whose start was committed its share, even if it does not fit. It returns false if admission
// has the run already.
func (a *admission) resume(t ticket) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.knows(t.runID) {
		return false
	}
	a.take(t)
	return true
}

// next takes the first attempt of the queue if it fits now.
func (a *admission) next() (ticket, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.waiting) == 0 || !a.fits(a.waiting[0]) {
		return ticket{}, false
	}
	t := a.waiting[0]
	a.waiting = slices.Delete(a.waiting, 0, 1)
	a.take(t)
	return t, true
}

// release forgets an attempt, wherever it stands, and gives its share back.
func (a *admission) release(runID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.accepting, runID)
	if t, ok := a.active[runID]; ok {
		delete(a.active, runID)
		a.used.Memory -= t.request.Memory
		a.used.CPU -= t.request.CPU
	}
	a.unqueue(runID)
}

// drop forgets a waiting attempt. It returns false if none waits.
func (a *admission) drop(runID string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.unqueue(runID)
}

// get returns an active attempt.
func (a *admission) get(runID string) (ticket, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, ok := a.active[runID]
	return t, ok
}

// has reports whether admission has the run, in whatever place.
func (a *admission) has(runID string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.knows(runID)
}

// ids lists the active attempts' runs and the first waiting ones.
func (a *admission) ids(waiting int) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	ids := make([]string, 0, len(a.active)+waiting)
	for id := range a.active {
		ids = append(ids, id)
	}
	for _, t := range a.waiting[:min(waiting, len(a.waiting))] {
		ids = append(ids, t.runID)
	}
	return ids
}

// unexplained returns up to limit waiting attempts whose rows do not say yet why they wait.
func (a *admission) unexplained(limit int) []ticket {
	a.mu.Lock()
	defer a.mu.Unlock()
	var found []ticket
	for _, t := range a.waiting {
		if len(found) < limit && !t.explained {
			found = append(found, t)
		}
	}
	return found
}

// explained records that the row of a waiting attempt says why it waits.
func (a *admission) explained(runID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := a.position(runID); i >= 0 {
		a.waiting[i].explained = true
	}
}

// empty forgets everything. The next driver of the folder reads it from the database.
func (a *admission) empty() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.used, a.waiting = state.Size{}, nil
	clear(a.active)
}

// The following are called with mu held.

func (a *admission) knows(runID string) bool {
	_, active := a.active[runID]
	return active || a.accepting[runID] || a.position(runID) >= 0
}

func (a *admission) position(runID string) int {
	return slices.IndexFunc(a.waiting, func(t ticket) bool { return t.runID == runID })
}

func (a *admission) fits(t ticket) bool {
	together := state.Size{Memory: a.used.Memory + t.request.Memory, CPU: a.used.CPU + t.request.CPU}
	return together.Fits(a.capacity)
}

func (a *admission) take(t ticket) {
	a.active[t.runID] = t
	a.used.Memory += t.request.Memory
	a.used.CPU += t.request.CPU
}

func (a *admission) enqueue(t ticket) {
	at, _ := slices.BinarySearchFunc(a.waiting, t, ticket.compare)
	a.waiting = slices.Insert(a.waiting, at, t)
}

func (a *admission) unqueue(runID string) bool {
	i := a.position(runID)
	if i >= 0 {
		a.waiting = slices.Delete(a.waiting, i, i+1)
	}
	return i >= 0
}
