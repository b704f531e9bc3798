package engine_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

// ageing is an engine that is outdated when its test says so.
type ageing struct {
	named
	outdated atomic.Bool
	asked    atomic.Int64
}

var _ engine.Ageing = (*ageing)(nil)

func (a *ageing) Outdated() bool {
	a.asked.Add(1)
	return a.outdated.Load()
}

func TestAnOutdatedEngineIsOpenedAnew(t *testing.T) {
	t.Parallel()
	var broken error
	clusters, _, clk := makeClusters(t, func(context.Context, state.Cluster) (engine.Engine, error) {
		if broken != nil {
			return nil, broken
		}
		return &ageing{}, nil
	}, cluster("1", "prod"))
	ask := func() *ageing {
		t.Helper()
		eng, err := clusters.Engine(t.Context(), "prod")
		require.NoError(t, err)
		got, ok := eng.(*ageing)
		require.True(t, ok)
		return got
	}
	first := ask()
	first.outdated.Store(true)
	assert.Same(t, first, ask(), "it is not asked at every call")
	assert.Zero(t, first.asked.Load())

	clk.Advance(engine.AskOutdatedEvery)
	broken = errors.New("half a file")
	assert.Same(t, first, ask(), "what cannot be opened replaces nothing")
	assert.Same(t, first, ask())
	assert.EqualValues(t, 1, first.asked.Load())

	broken = nil
	clk.Advance(engine.AskOutdatedEvery)
	second := ask()
	assert.NotSame(t, first, second)
	clk.Advance(engine.AskOutdatedEvery)
	assert.Same(t, second, ask(), "it is up to date")
}
