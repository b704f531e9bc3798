package state

import "slices"

// Status is where a run stands in its life. The words are stored in the
// column task.status and are part of the REST contract.
type Status string

const (
	// StatusQueued: the run is committed and waits to be claimed.
	StatusQueued Status = "QUEUED"
	// StatusPending: a cluster has accepted the run; its container has not
	// started yet.
	StatusPending Status = "PENDING"
	// StatusRunning: the run's container has started.
	StatusRunning Status = "RUNNING"
	// StatusNeedsRetry: the cluster failed the run (never the user's own exit
	// code); the retry worker puts it back in the queue.
	StatusNeedsRetry Status = "NEEDS_RETRY"
	// StatusStopped: the run is over. Final.
	StatusStopped Status = "STOPPED"
)

// Statuses lists every status in the order of a run's life.
var Statuses = []Status{StatusQueued, StatusPending, StatusRunning, StatusNeedsRetry, StatusStopped}

// legalMoves is the one table of a run's life: from each status, the statuses
// that one UPDATE may move it to. The guards of every UPDATE derive from it,
// and docs/states.md draws it. RUNNING may be reached from QUEUED and STOPPED
// from every status, because a re-list after a gap finds a run in its true
// state and not in the next one.
var legalMoves = map[Status][]Status{
	StatusQueued:     {StatusPending, StatusRunning, StatusStopped},
	StatusPending:    {StatusQueued, StatusRunning, StatusNeedsRetry, StatusStopped},
	StatusRunning:    {StatusNeedsRetry, StatusStopped},
	StatusNeedsRetry: {StatusQueued, StatusStopped},
	StatusStopped:    {},
}

// Valid reports whether s is one of the five status words.
func (s Status) Valid() bool { return slices.Contains(Statuses, s) }

// Final reports whether no move leads out of s.
func (s Status) Final() bool { return s == StatusStopped }

// MayBecome reports whether one UPDATE may move a run from s to next.
func (s Status) MayBecome(next Status) bool { return slices.Contains(legalMoves[s], next) }

// sourcesOf lists the statuses that an UPDATE to next may leave, as the guard
// of that UPDATE.
func sourcesOf(next Status) []Status {
	var from []Status
	for _, s := range Statuses {
		if s.MayBecome(next) {
			from = append(from, s)
		}
	}
	return from
}
