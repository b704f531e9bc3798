package services

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/state"
)

// WorkerStore is the database as the WorkerService uses it.
type WorkerStore interface {
	// ListWorkers returns one worker per type.
	ListWorkers(ctx context.Context, engine string) ([]state.Worker, error)
	GetWorker(ctx context.Context, engine string, t state.WorkerType) (state.Worker, error)
	// UpdateWorkers sets the counts of the types given, for all engines.
	UpdateWorkers(ctx context.Context, workers []state.Worker) error
}

// WorkerConfig is what a WorkerService needs.
type WorkerConfig struct {
	Store  WorkerStore
	Logger *slog.Logger
}

// WorkerService reads and sets how many workers of each type a server runs (rest-api.md, Worker). It reads those of
// engine eks and sets those of all engines.
type WorkerService struct{ c WorkerConfig }

// NewWorkerService returns the service.
func NewWorkerService(c WorkerConfig) (*WorkerService, error) {
	if c.Store == nil || c.Logger == nil {
		return nil, errors.New("services: workers need a store and a logger")
	}
	return &WorkerService{c}, nil
}

// List returns one worker per type. Existing tables may hold further types, which are ignored.
func (s *WorkerService) List(ctx context.Context) ([]state.Worker, error) {
	list, err := s.c.Store.ListWorkers(ctx, state.EKSEngine)
	return slices.DeleteFunc(list, func(w state.Worker) bool {
		return !slices.Contains(state.WorkerTypes, w.WorkerType)
	}), err
}

// Get returns the worker of a type; state.MalformedInput if there is no such type.
func (s *WorkerService) Get(ctx context.Context, t state.WorkerType) (state.Worker, error) {
	if err := checkWorker(state.Worker{WorkerType: t}); err != nil {
		return state.Worker{}, err
	}
	return s.c.Store.GetWorker(ctx, state.EKSEngine, t)
}

// Update sets how many workers of a type each server runs; 0 pauses them.
func (s *WorkerService) Update(ctx context.Context, t state.WorkerType, count int64) (state.Worker, error) {
	if _, err := s.UpdateAll(ctx, []state.Worker{{WorkerType: t, CountPerInstance: count}}); err != nil {
		return state.Worker{}, err
	}
	return s.c.Store.GetWorker(ctx, state.EKSEngine, t)
}

// UpdateAll sets the counts of several types, all or none of them, and returns the workers of all types.
func (s *WorkerService) UpdateAll(ctx context.Context, workers []state.Worker) ([]state.Worker, error) {
	seen := map[state.WorkerType]bool{}
	for _, w := range workers {
		if err := checkWorker(w); err != nil {
			return nil, err
		}
		if seen[w.WorkerType] {
			return nil, state.Malformedf("worker_type %s is given more than once", w.WorkerType)
		}
		seen[w.WorkerType] = true
	}
	if len(workers) > 0 {
		if err := s.c.Store.UpdateWorkers(ctx, workers); err != nil {
			return nil, err
		}
	}
	for _, w := range workers {
		audit(ctx, s.c.Logger, eventWorkerCountUpdated, "", "worker_type", w.WorkerType, "count_per_instance", w.CountPerInstance)
	}
	return s.List(ctx)
}

func checkWorker(w state.Worker) error {
	var f faults
	if !slices.Contains(state.WorkerTypes, w.WorkerType) {
		f.addf("worker_type must be one of %s, not %q", listed(state.WorkerTypes), w.WorkerType)
	}
	f.number("count_per_instance", &w.CountPerInstance, 0, config.MaxWorkerCount)
	return f.err()
}

// listed returns the values that a field may have, joined for a sentence.
func listed[T ~string](words []T) string {
	out := ""
	for i, word := range words {
		switch {
		case i == 0:
		case i == len(words)-1:
			out += " and "
		default:
			out += ", "
		}
		out += string(word)
	}
	return out
}
