package worker

import (
	"context"
	"time"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

// Store is what the workers need of the database; each of them sees its own
// part only. *state.Manager has all of it.
type Store interface {
	submitStore
	observerStore
	sweepStore
	retryStore
	upkeepStore
	// ListWorkers answers one count per worker type.
	ListWorkers(ctx context.Context, engine string) ([]state.Worker, error)
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

type sweepStore interface {
	OverdueRuns(ctx context.Context, grace time.Duration, limit int) ([]state.Run, error)
	RequeueOrphans(ctx context.Context, deadAfter time.Duration) (int, error)
	StopLost(ctx context.Context, cluster string, lostAfter time.Duration, limit int) ([]state.Run, error)
	MoveRun(ctx context.Context, runID string, attempt int64, to state.Status, u state.RunUpdate) (bool, error)
}

type retryStore interface {
	RequeueRetries(ctx context.Context, p state.RetryPolicy) (requeued, stopped []state.Run, err error)
}

type upkeepStore interface {
	QueueDepths(ctx context.Context) ([]state.QueueDepth, error)
	ExplainQueued(ctx context.Context, cluster, reason string, limit int) (int, error)
	DeleteOldRuns(ctx context.Context, before time.Time, limit int) (int, error)
	DeleteOrphanRuns(ctx context.Context, limit int) (int, error)
}

// Notifier wakes workers, here and in other servers.
type Notifier interface {
	Wake()
	// Subscribe answers a channel that gets a value when there may be work;
	// cancel ends the subscription.
	Subscribe() (woken <-chan struct{}, cancel func())
}

// Locker elects one server among all.
type Locker interface {
	// Lead calls fn while this server holds the name, again each time that it
	// got it, until ctx ends. fn's context ends when the lock is lost.
	Lead(ctx context.Context, name string, fn func(ctx context.Context) error) error
}

// Clusters are the places that runs go to; *engine.Clusters.
type Clusters interface {
	List(ctx context.Context) ([]state.Cluster, error)
	Engine(ctx context.Context, name string) (engine.Engine, error)
}
