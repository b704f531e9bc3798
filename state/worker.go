package state

import "github.com/stitchfix/flotilla-os/config"

// WorkerType names one of the loops that move runs along.
type WorkerType string

const (
	// WorkerSubmit claims queued runs and hands them to their cluster.
	WorkerSubmit WorkerType = config.WorkerSubmit
	// WorkerRetry puts runs that their cluster failed back in the queue.
	WorkerRetry WorkerType = config.WorkerRetry
	// WorkerStatus follows the clusters and records what happens there.
	WorkerStatus WorkerType = config.WorkerStatus
)

// WorkerTypes lists every worker type.
var WorkerTypes = []WorkerType{WorkerRetry, WorkerSubmit, WorkerStatus}

// Worker says how many workers of a type each server runs.
type Worker struct {
	WorkerType       WorkerType `db:"worker_type"`
	CountPerInstance int64      `db:"count_per_instance"`
	Engine           string     `db:"engine"`
}
