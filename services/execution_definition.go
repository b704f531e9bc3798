package services

import (
	"context"
	"errors"

	"github.com/stitchfix/flotilla-os/state"
)

// Caches that submitting reads are bounded in number, for memory: a definition may hold a command of 128 KiB.
const (
	mostRuntimes    = 1000
	mostDefinitions = 250
)

// definitionKey is what a definition is found by, one of both.
type definitionKey struct{ id, alias string }

func (s *ExecutionService) readDefinition(ctx context.Context, key definitionKey) (state.Definition, error) {
	if key.alias != "" {
		return s.c.Store.GetDefinitionByAlias(ctx, key.alias)
	}
	return s.c.Store.GetDefinition(ctx, key.id)
}

// createOf queues a run of a definition. It takes the definition as it was up to cacheAge ago, and has the INSERT see
// whether it still is so, which saves reading it for every run. Where it is not, or where the request does not fit what
// it was, nothing has been stored, and the definition is read.
func (s *ExecutionService) createOf(ctx context.Context, key definitionKey, req *state.DefinitionExecutionRequest) (Created, error) {
	if d, err := s.definitions.get(ctx, key, cacheAge); err == nil {
		created, err := s.create(ctx, d, req, creation{version: d.Version})
		if !errors.Is(err, state.ErrDefinitionChanged) && !errors.As(err, new(state.MalformedInput)) {
			return created, err
		}
		s.definitions.drop(key)
	}
	d, err := s.readDefinition(ctx, key)
	if err != nil {
		return Created{}, err
	}
	return s.create(ctx, d, req, creation{})
}
