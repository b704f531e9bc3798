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

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/execution/engine"
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
	// Config gives the intervals, the bounds and which workers may run here.
	Config  config.Config
	Metrics metrics.Client
	Logger  *slog.Logger
	// Clock is time.Now where nil.
	Clock func() time.Time
	// Name is this process as a claimant; the host and a random part where
	// empty. No two living processes may share it.
	Name string
}

// Supervisor runs the workers of one server.
type Supervisor struct {
	SupervisorConfig
}

// worker is one kind of worker. Run works until ctx ends, as count workers
// would, and answers nil then.
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
	if cfg.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("worker: the name of this host: %w", err)
		}
		cfg.Name = host + "-" + uuid.NewString()
	}
	return &Supervisor{cfg}, nil
}

// Run keeps as many workers of each type going as the table worker says,
// until ctx ends; then it ends them, hands back what they had claimed and
// answers nil.
func (s *Supervisor) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	counts := map[state.WorkerType]chan int{}
	for kind, w := range s.workers() {
		if !slices.Contains(s.Config.Workers.Types, string(kind)) {
			s.Logger.Info("worker type not enabled on this server", "worker_type", kind)
			continue
		}
		changes := make(chan int, 1)
		counts[kind] = changes
		group.Go(func() error { return s.keep(ctx, kind, w, changes) })
	}
	group.Go(func() error { return s.watchCounts(ctx, counts) })
	group.Go(func() error { return newUpkeep(s.SupervisorConfig).Run(ctx) })
	return group.Wait()
}

func (s *Supervisor) workers() map[state.WorkerType]worker {
	return map[state.WorkerType]worker{
		state.WorkerSubmit: newSubmitWorker(s.SupervisorConfig),
		state.WorkerStatus: newStatusWorker(s.SupervisorConfig),
		state.WorkerRetry:  newRetryWorker(s.SupervisorConfig),
	}
}

// watchCounts reads the table and tells each worker its count. While the
// table cannot be read, everybody keeps the count they had.
func (s *Supervisor) watchCounts(ctx context.Context, counts map[state.WorkerType]chan int) error {
	told := map[state.WorkerType]int{}
	failed := false
	for {
		wait := s.Config.Workers.ManagerInterval
		rows, err := s.Store.ListWorkers(ctx, state.EKSEngine)
		if err != nil && ctx.Err() == nil {
			wait = min(wait, firstBackoff)
			if !failed {
				s.Logger.Warn("cannot read the worker counts", "error", err)
			}
		}
		failed = err != nil
		for _, row := range rows {
			n := int(row.CountPerInstance)
			if old, known := told[row.WorkerType]; counts[row.WorkerType] == nil || known && old == n {
				continue
			}
			told[row.WorkerType] = n
			replace(counts[row.WorkerType], n)
		}
		if !engine.Pause(ctx, wait) {
			return nil
		}
	}
}

// replace puts n in a channel of one place, over what is there. There is one
// sender only.
func replace(ch chan int, n int) {
	select {
	case <-ch:
	default:
	}
	ch <- n
}

// keep runs one worker as often as its count changes, and not while it is 0.
func (s *Supervisor) keep(ctx context.Context, kind state.WorkerType, w worker, counts <-chan int) error {
	count := 0
	for {
		if count <= 0 {
			select {
			case <-ctx.Done():
				return nil
			case count = <-counts:
			}
			continue
		}
		s.Logger.Info("workers started", "worker_type", kind, "count", count)
		next, err := s.runUntilChanged(ctx, w, count, counts)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			s.Logger.Error("worker failed and is started again", "worker_type", kind, "error", err)
			if !engine.Pause(ctx, firstBackoff) {
				return nil
			}
		}
		if next != count {
			s.Logger.Info("worker count changed", "worker_type", kind, "count", next)
		}
		count = next
	}
}

// runUntilChanged runs w until it ends or its count changes, waits for its
// end, and answers the count that holds now.
func (s *Supervisor) runUntilChanged(ctx context.Context, w worker, count int, counts <-chan int) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, count) }()
	for {
		select {
		case err := <-ended:
			return count, err
		case next := <-counts:
			count = next
			cancel()
		}
	}
}
