package local

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// amount is a share of the machine: memory in MB, cpu in millicores.
type amount struct{ memory, cpu int64 }

func (a amount) plus(b amount) amount  { return amount{a.memory + b.memory, a.cpu + b.cpu} }
func (a amount) minus(b amount) amount { return amount{a.memory - b.memory, a.cpu - b.cpu} }
func (a amount) within(b amount) bool  { return a.memory <= b.memory && a.cpu <= b.cpu }

// ticket is one attempt on its way through admission.
type ticket struct {
	runID    string
	attempt  int
	queuedAt time.Time
	request  amount
	// explained: the row says that the run waits for capacity.
	explained bool
}

func (t ticket) before(other ticket) int {
	if c := t.queuedAt.Compare(other.queuedAt); c != 0 {
		return c
	}
	return strings.Compare(t.runID, other.runID)
}

// admission decides which attempts may run at once: first come, first served. Who does not fit holds up everybody
// behind him, because otherwise small runs would keep a big one waiting for ever.
type admission struct {
	capacity amount

	mu      sync.Mutex
	used    amount
	waiting []ticket
	// active are the attempts that hold a share; accepting those whose acceptance is not known to be committed yet.
	active    map[string]ticket
	accepting map[string]bool
}

func newAdmission(capacity amount) *admission {
	return &admission{capacity: capacity, active: map[string]ticket{}, accepting: map[string]bool{}}
}

// announce registers an attempt whose acceptance is about to be committed. known: it is in here already. reserved: it
// got its share and may start with the commit; asked for by immediate, granted where it fits and nobody waits.
func (a *admission) announce(t ticket, immediate bool) (known, reserved bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.knows(t.runID) {
		return true, false
	}
	a.accepting[t.runID] = true
	if immediate && len(a.waiting) == 0 && a.used.plus(t.request).within(a.capacity) {
		a.take(t)
		return false, true
	}
	return false, false
}

// settle ends what announce began. Where the attempt is not reserved and wait is set, it joins the queue.
func (a *admission) settle(t ticket, wait bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.accepting, t.runID)
	if wait {
		a.enqueue(t)
	}
}

// enqueueNew adds an attempt that nothing is known of; it answers false for one that is in here.
func (a *admission) enqueueNew(t ticket) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.knows(t.runID) {
		return false
	}
	a.enqueue(t)
	return true
}

// resume gives an attempt whose start was committed its share, whether it fits or not; false for one that is in here.
func (a *admission) resume(t ticket) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.knows(t.runID) {
		return false
	}
	a.take(t)
	return true
}

// next takes the first in the queue, if it fits now.
func (a *admission) next() (ticket, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.waiting) == 0 || !a.used.plus(a.waiting[0].request).within(a.capacity) {
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
		a.used = a.used.minus(t.request)
	}
	a.waiting = slices.DeleteFunc(a.waiting, func(t ticket) bool { return t.runID == runID })
}

// drop forgets a waiting attempt; it answers false where none waits.
func (a *admission) drop(runID string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := len(a.waiting)
	a.waiting = slices.DeleteFunc(a.waiting, func(t ticket) bool { return t.runID == runID })
	return len(a.waiting) < before
}

// get answers an active attempt.
func (a *admission) get(runID string) (ticket, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, ok := a.active[runID]
	return t, ok
}

// has says whether the run is in here, in whatever place.
func (a *admission) has(runID string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.knows(runID)
}

// putBack returns an attempt that could not be started to its place in the queue.
func (a *admission) putBack(t ticket) {
	a.release(t.runID)
	a.enqueueNew(t)
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

// explain answers up to limit waiting attempts whose rows do not say yet why they wait, and marks them.
func (a *admission) explain(limit int) []ticket {
	a.mu.Lock()
	defer a.mu.Unlock()
	var found []ticket
	for i := range a.waiting {
		if len(found) < limit && !a.waiting[i].explained {
			a.waiting[i].explained = true
			found = append(found, a.waiting[i])
		}
	}
	return found
}

// empty forgets everything: the next driver of the folder learns it from the database.
func (a *admission) empty() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.used, a.waiting = amount{}, nil
	clear(a.active)
}

func (a *admission) knows(runID string) bool {
	_, active := a.active[runID]
	return active || a.accepting[runID] ||
		slices.ContainsFunc(a.waiting, func(t ticket) bool { return t.runID == runID })
}

func (a *admission) take(t ticket) {
	a.active[t.runID] = t
	a.used = a.used.plus(t.request)
}

func (a *admission) enqueue(t ticket) {
	at, _ := slices.BinarySearchFunc(a.waiting, t, ticket.before)
	a.waiting = slices.Insert(a.waiting, at, t)
}
