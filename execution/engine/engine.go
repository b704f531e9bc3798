// Package engine defines what Flotilla needs of a place that executes runs, and
// keeps the registry of such places. Each driver has a package below this one;
// nothing here knows any of them.
package engine

import (
	"context"
	"time"

	"github.com/stitchfix/flotilla-os/state"
)

// Engine executes the runs of one state.EngineKey: the runs of one kind on one
// cluster. Every method is about those runs only, and may be called at the same
// time for different runs. An engine that holds resources also has a method
// Close(), which Clusters calls once.
type Engine interface {
	// Execute hands a run to the cluster. It is idempotent by run id and
	// attempt: called again for an attempt that the cluster already has, it
	// creates nothing and calls Accept again. Errors: Rejected, NotNow, or
	// anything else, which is tried again with a growing delay.
	Execute(ctx context.Context, s Submission) error
	// Terminate ends what the cluster has of a run, if it has anything; the
	// container may go on for its grace period.
	Terminate(ctx context.Context, run state.Run) error
	// Events returns the newest events of the run's pods, oldest first.
	Events(ctx context.Context, run state.Run) (state.PodEvents, error)
	// Logs reads the run's log from a position on. A run that has not started
	// has an empty log.
	Logs(ctx context.Context, run state.Run, q LogQuery) (LogChunk, error)
	// Manifest returns what was submitted, as YAML, or state.MissingResource if
	// there is none.
	Manifest(ctx context.Context, run state.Run) ([]byte, error)
	// Follow reports every change of the cluster's runs to o, first what
	// happened while it was not followed, until ctx ends. It returns nil then,
	// and an error when it cannot go on; the caller starts it again.
	Follow(ctx context.Context, o Observer) error
}

// OnNode is implemented by engines that execute runs on the machine of the
// server they are part of. Every server follows such an engine, because each
// sees its own machine only; any other engine is followed by one server at a
// time.
type OnNode interface {
	// Node returns the name of this server's machine among those of the cluster; it is the
	// same after a restart.
	Node() string
}

// AskOutdatedEvery is the time between two looks at what an engine depends on.
const AskOutdatedEvery = 10 * time.Second

// Ageing is implemented by engines that depend on more than their cluster's
// row, such as a kubeconfig file.
type Ageing interface {
	// Outdated reports whether an engine opened now would be another one. It
	// may read files, and is called at most once in AskOutdatedEvery.
	Outdated() bool
}

// Submission is one attempt at a run.
type Submission struct {
	Run        state.Run
	Executable state.Executable
	// Accept commits that the cluster has the run (QUEUED to PENDING). The
	// engine calls it at the moment from which its own records would find the
	// run again after a crash, and before anything that could not be done
	// twice. It returns false if the run is no longer this worker's to submit
	// (stopped, or claimed by another): the engine then takes back what it
	// made.
	Accept func(ctx context.Context, a state.Acceptance) (bool, error)
}

// Rejected is the error of a run that can never be executed as it is; it ends STOPPED
// with exit code 1 and this reason.
type Rejected struct{ Reason string }

func (e Rejected) Error() string { return e.Reason }

// NotNow is the error of a cluster that does not take the run at present; it stays
// QUEUED with this sentence as its status reason.
type NotNow struct{ Reason string }

func (e NotNow) Error() string { return e.Reason }

// Observation is what an engine saw of a run. nil fields were not seen.
type Observation struct {
	RunID string
	// Attempt is the attempt that was seen. An observation of an earlier
	// attempt than the run's present one changes nothing.
	Attempt int64
	// Status is where the run stands, or empty if only details changed.
	Status state.Status
	Update state.RunUpdate
}

// Observer takes what engines see. An error means that it was not recorded;
// the engine reports the run again.
type Observer interface {
	Observe(ctx context.Context, seen Observation) error
}

// LogQuery is a part of a run's log.
type LogQuery struct {
	// Offset is a position in bytes.
	Offset int64
	// Limit is the most bytes to read; at least 1.
	Limit int64
	// Role and Facility choose among the logs of a Spark run.
	Role, Facility string
}

// LogChunk is what was read of a log.
type LogChunk struct {
	Data []byte
	// Next is the position behind Data, or the log's end if the query's offset is beyond it.
	Next int64
	// Complete reports that Data ends the log: the run's containers have ended and everything they wrote was kept.
	Complete bool
}

// Heartbeat is how often a node reports that it is alive.
const Heartbeat = 3 * time.Second

// Pause waits for d. It returns false if ctx ended first.
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
