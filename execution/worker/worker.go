// Package worker moves runs along: the submit worker claims queued runs and
// hands them to their cluster, the status worker follows the clusters and
// records what happens there, the retry worker queues again what a cluster
// failed. The Supervisor runs them by the counts in the table worker.
//
// A worker decides when to call an engine and which. The guards of package state
// decide which moves of a run are legal, execution/adapter what a run gets, and
// engines how to talk to a cluster. docs/crash-points.md lists what each worker
// finds after a crash.
package worker

import (
	"cmp"
	"context"
	"log/slog"
	"time"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// Store is what the workers need of the database; each of them gets its own
// part only. *state.Manager has all of it.
type Store interface {
	submitStore
	observerStore
	statusStore
	sweepStore
	retryStore
	upkeepStore
}

type submitStore interface {
	ClaimRuns(ctx context.Context, r state.ClaimRequest) ([]state.Run, error)
	RenewClaims(ctx context.Context, worker string, runIDs []string, lease time.Duration) error
	ReleaseClaims(ctx context.Context, worker string) error
	DeferRun(ctx context.Context, runID, worker, reason string, next time.Time) error
	AcceptRun(ctx context.Context, runID, worker string, a state.Acceptance) (bool, error)
	RejectRun(ctx context.Context, runID, worker, reason string) (bool, error)
	GetExecutable(ctx context.Context, typ state.ExecutableType, id string) (state.Executable, error)
}

type observerStore interface {
	MoveRun(ctx context.Context, runID string, attempt int64, to state.Status, u state.RunUpdate) (bool, error)
	AnnotateRun(ctx context.Context, runID string, attempt int64, u state.RunUpdate) (bool, error)
	GetRun(ctx context.Context, runID string) (state.Run, error)
}

type statusStore interface {
	ActiveRuns(ctx context.Context, key state.EngineKey, node, after string, limit int) ([]state.Run, error)
}

type sweepStore interface {
	OverdueRuns(ctx context.Context, engines []string, grace time.Duration, limit int) ([]state.Run, error)
	RequeueOrphans(ctx context.Context, deadAfter time.Duration) (int, error)
	StopLost(ctx context.Context, key state.EngineKey, lostAfter time.Duration, limit int) ([]state.Run, error)
	MoveRun(ctx context.Context, runID string, attempt int64, to state.Status, u state.RunUpdate) (bool, error)
}

type retryStore interface {
	RequeueRetries(ctx context.Context, p state.RetryPolicy) (requeued, stopped []state.Run, err error)
}

type upkeepStore interface {
	QueueDepths(ctx context.Context) ([]state.QueueDepth, error)
	ExplainQueued(ctx context.Context, key state.EngineKey, reason string, limit int) (int, error)
	DeleteOldRuns(ctx context.Context, before time.Time, limit int) (int, error)
	DeleteOrphanRuns(ctx context.Context, limit int) (int, error)
	// LockHeld reports whether any server leads under the name (Locker).
	LockHeld(ctx context.Context, name string) (bool, error)
	// ListWorkers returns one count per worker type.
	ListWorkers(ctx context.Context, engine string) ([]state.Worker, error)
}

// Notifier wakes workers, here and in other servers.
type Notifier interface {
	Wake()
	// Subscribe returns a channel that gets a value when there may be work;
	// cancel ends the subscription.
	Subscribe() (woken <-chan struct{}, cancel func())
}

// Names under which one server is elected (Locker.Lead). While any server runs
// submit or status workers, leadSubmit or leadSweep is held by one of them.
const (
	leadFollow = "follow/" // see followLock
	leadSubmit = "submit"
	leadSweep  = "sweep"
	leadUpkeep = "upkeep"
)

// Locker elects one server among all.
type Locker interface {
	// Lead calls fn while this server holds the name, again each time that it
	// got it, until ctx ends. fn's context ends when the lock is lost.
	Lead(ctx context.Context, name string, fn func(ctx context.Context) error) error
}

// Clusters is the registry of engines; *engine.Clusters.
type Clusters interface {
	List(ctx context.Context) ([]state.Cluster, error)
	Engine(ctx context.Context, key state.EngineKey) (engine.Engine, error)
	// Drop closes and forgets the engine of a cluster that is gone.
	Drop(key state.EngineKey)
}

// tools are what every worker uses.
type tools struct {
	metrics metrics.Client
	logger  *slog.Logger
	clock   func() time.Time
}

// loop returns a Loop that calls step; what names its failure in the log.
func (t tools) loop(what string, every time.Duration, step func(ctx context.Context) error) *Loop {
	return &Loop{What: what, Every: every, Step: step, Logger: t.logger, Clock: t.clock}
}

// timed returns a Loop.Timed that measures m.
func (t tools) timed(m metrics.Metric, tags ...string) func(time.Duration) {
	return func(d time.Duration) { t.metrics.Timing(m, tags, d) }
}

// logStatus writes the audit line of a change that was committed.
func (t tools) logStatus(run state.Run, to state.Status, u state.RunUpdate) {
	t.logger.Info("audit", state.AuditStatus(state.Program, run, to, u)...)
}

// keyTags returns the tags of what concerns one engine. Rows of the program
// before may name no cluster.
func keyTags(key state.EngineKey) []string {
	return metrics.EngineTags(key.Engine, cmp.Or(key.Cluster, "none"))
}
