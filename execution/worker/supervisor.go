package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// SupervisorConfig is what NewSupervisor needs; every field without a default
// is required.
type SupervisorConfig struct {
	Store    Store
	Clusters Clusters
	Notifier Notifier
	Locker   Locker
	Metrics  metrics.Client
	Logger   *slog.Logger
	// Clock is time.Now if nil.
	Clock func() time.Time
	// Name is this process as a claimant; the host and a random part if empty.
	// No two living processes may share it.
	Name string

	// Types are the worker types that may run on this server.
	Types []state.WorkerType
	// Engines are the engines of the runs that this program executes; runs of
	// others are left alone. EKSEngine if empty.
	Engines []string
	// The polls that back up notifications; ManagerInterval is that of the
	// worker counts.
	SubmitInterval, StatusInterval, RetryInterval, ManagerInterval time.Duration
	// ClaimLease is how long a claim holds unless it is renewed.
	ClaimLease time.Duration
	// LostAfter is how long a machine may be silent before its runs are lost.
	LostAfter time.Duration
	// Retry bounds attempts; its Limit and Engines are set by the worker.
	Retry state.RetryPolicy
	// RetentionDays is the age at which stopped runs are deleted; 0 keeps all.
	RetentionDays int
}

func (c SupervisorConfig) tools() tools { return tools{c.Metrics, c.Logger, c.Clock} }

// Supervisor runs the workers of one server.
type Supervisor struct {
	cfg    SupervisorConfig
	upkeep *upkeep
}

// worker is one kind of worker. Run works until ctx ends, as count workers
// would, and returns nil then.
type worker interface {
	Run(ctx context.Context, count int) error
}

// NewSupervisor makes a Supervisor; nothing runs before Run.
func NewSupervisor(cfg SupervisorConfig) (*Supervisor, error) {
	if cfg.Store == nil || cfg.Clusters == nil || cfg.Notifier == nil || cfg.Locker == nil ||
		cfg.Metrics == nil || cfg.Logger == nil {
		return nil, errors.New("worker: NewSupervisor needs Store, Clusters, Notifier, Locker, Metrics and Logger")
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if len(cfg.Engines) == 0 {
		cfg.Engines = []string{state.EKSEngine}
	}
	if cfg.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("worker: the name of this host: %w", err)
		}
		cfg.Name = host + "-" + uuid.NewString()
	}
	return &Supervisor{cfg, newUpkeep(cfg)}, nil
}

// Unfollowed returns a sentence for each worker type that no live server runs,
// by type; it is for /readyz. What it knows is at most two minutes old.
func (s *Supervisor) Unfollowed() map[state.WorkerType]string { return s.upkeep.unfollowed() }

// Run keeps as many workers of each type going as the table worker has,
// until ctx ends; then it ends them, hands back what they had claimed and
// returns nil.
func (s *Supervisor) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	counts := map[state.WorkerType]chan int{}
	for kind, w := range map[state.WorkerType]worker{
		state.WorkerSubmit: newSubmitWorker(s.cfg),
		state.WorkerStatus: newStatusWorker(s.cfg),
		state.WorkerRetry:  newRetryWorker(s.cfg),
	} {
		if !slices.Contains(s.cfg.Types, kind) {
			s.cfg.Logger.Info("worker type not enabled on this server", "worker_type", kind)
			continue
		}
		changes := make(chan int, 1)
		counts[kind] = changes
		group.Go(func() error { return s.keep(ctx, kind, w, changes) })
	}
	known := map[state.WorkerType]int{}
	watch := s.cfg.tools().loop("cannot read the worker counts", s.cfg.ManagerInterval, func(ctx context.Context) error {
		return s.readCounts(ctx, counts, known)
	})
	group.Go(func() error { return watch.Run(ctx) })
	group.Go(func() error { return s.upkeep.Run(ctx) })
	return group.Wait()
}

// readCounts reads the table and passes each changed count on. While the table
// cannot be read, every worker keeps the count it had.
func (s *Supervisor) readCounts(ctx context.Context, counts map[state.WorkerType]chan int, known map[state.WorkerType]int) error {
	rows, err := s.cfg.Store.ListWorkers(ctx, state.EKSEngine)
	if err != nil {
		return err
	}
	for _, row := range rows {
		changes, n := counts[row.WorkerType], int(row.CountPerInstance)
		if old, ok := known[row.WorkerType]; changes == nil || ok && old == n {
			continue
		}
		known[row.WorkerType] = n
		select {
		case <-changes: // replace what was not read yet; there is one sender
		default:
		}
		changes <- n
	}
	return nil
}

// keep runs one worker with the count that holds, and not while that is 0. It
// waits for the worker's end before it starts it with another count.
func (s *Supervisor) keep(ctx context.Context, kind state.WorkerType, w worker, counts <-chan int) error {
	logger := s.cfg.Logger.With("worker_type", kind)
	for count := 0; ctx.Err() == nil; {
		running, stop := context.WithCancel(ctx)
		var group errgroup.Group
		if count > 0 {
			logger.Info("workers started", "count", count)
			started := count
			serve := s.cfg.tools().loop("cannot run workers", firstBackoff, func(ctx context.Context) error {
				return w.Run(ctx, started)
			})
			serve.Logger = logger
			group.Go(func() error { return serve.Run(running) })
		}
		select {
		case <-ctx.Done():
		case count = <-counts:
			logger.Info("worker count changed", "count", count)
		}
		stop()
		if err := group.Wait(); err != nil {
			return err
		}
	}
	return nil
}
