package services

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

// Filters of ListOptions that the path of a request implies.
const (
	filterDefinition = "definition_id"
	filterExecutable = "executable_id"
)

// askTimeout bounds how long the events of a run are read from its cluster.
const askTimeout = 5 * time.Second

// List returns a page of runs.
func (s *ExecutionService) List(ctx context.Context, o state.ListOptions) (state.RunList, error) {
	list, err := s.c.Store.ListRuns(ctx, o)
	for i := range list.Runs {
		list.Runs[i] = s.decorated(list.Runs[i])
	}
	return list, err
}

// ListForExecutable returns a page of the runs of a definition or template; state.MissingResource if neither has that id.
func (s *ExecutionService) ListForExecutable(ctx context.Context, id string, o state.ListOptions) (state.RunList, error) {
	_, err := s.c.Store.GetDefinition(ctx, id)
	if errors.As(err, new(state.MissingResource)) {
		_, err = s.c.Store.GetTemplate(ctx, id)
	}
	if errors.As(err, new(state.MissingResource)) {
		err = state.Missingf("there is neither a definition nor a template %q", id)
	}
	if err != nil {
		return state.RunList{}, err
	}
	return s.List(ctx, filtered(o, filterDefinition, id))
}

// filtered returns the options with one filter set, in a map of their own.
func filtered(o state.ListOptions, filter string, values ...string) state.ListOptions {
	o.Filters = maps.Clone(o.Filters)
	if o.Filters == nil {
		o.Filters = map[string][]string{}
	}
	o.Filters[filter] = values
	return o
}

// Get returns a run with the runs that it spawned; state.MissingResource if there is none.
func (s *ExecutionService) Get(ctx context.Context, runID string) (state.Run, error) {
	run, err := s.c.Store.GetRun(ctx, runID)
	if err != nil {
		return state.Run{}, err
	}
	children, err := s.c.Store.ListChildRuns(ctx, runID)
	if err != nil {
		return state.Run{}, err
	}
	run.SpawnedRuns = nil
	for _, id := range children {
		run.SpawnedRuns = append(run.SpawnedRuns, state.SpawnedRun{RunID: id})
	}
	return s.decorated(run), nil
}

// Status returns a run as it is stored, without what takes further queries.
func (s *ExecutionService) Status(ctx context.Context, runID string) (state.Run, error) {
	return s.c.Store.GetRun(ctx, runID)
}

// Events returns a run's pod events: the stored ones, else those that its cluster has. It returns none if the cluster
// cannot be reached.
func (s *ExecutionService) Events(ctx context.Context, runID string) (state.PodEvents, error) {
	run, err := s.c.Store.GetRun(ctx, runID)
	if err != nil {
		return nil, err
	}
	if len(run.PodEvents) > 0 || run.Status == state.StatusQueued {
		return append(state.PodEvents{}, run.PodEvents...), nil
	}
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var events state.PodEvents
	e, err := s.c.Engines.Engine(asking, run.EngineKey())
	if err == nil {
		events, err = e.Events(asking, run)
	}
	if err != nil && ctx.Err() == nil {
		if !errors.As(err, new(engine.NotNow)) {
			s.log.WarnContext(ctx, "cannot read events from the cluster", "run_id", runID, "cluster", run.ClusterName, "error", err)
		}
		return state.PodEvents{}, nil
	}
	return append(state.PodEvents{}, events...), err
}

// Manifest returns what was submitted for a run, as YAML; state.MissingResource if there is none.
func (s *ExecutionService) Manifest(ctx context.Context, runID string) ([]byte, error) {
	run, err := s.c.Store.GetRun(ctx, runID)
	if err != nil {
		return nil, err
	}
	e, err := s.c.Engines.Engine(ctx, run.EngineKey())
	if errors.As(err, new(engine.NotNow)) {
		return nil, state.Missingf("cannot read the manifest of run %s from cluster %q: %s", runID, run.ClusterName, err)
	}
	if err != nil {
		return nil, err
	}
	return e.Manifest(ctx, run)
}
