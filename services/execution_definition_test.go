package services

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

// TestCreateUsesTheCurrentDefinition changes definitions by another server while the clock stands still, so the caches of
// this one are out of date.
func TestCreateUsesTheCurrentDefinition(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	d := b.definition(t, nil)
	byAlias := func(alias string) (Created, error) {
		return b.executions.CreateFromDefinition(t.Context(), DefinitionRef{Alias: alias}, request(state.ExecutionRequestCommon{}))
	}
	b.run(t, d, state.ExecutionRequestCommon{})
	created, err := byAlias(d.Alias)
	require.NoError(t, err)
	assert.Equal(t, "echo definition", *created.Run.Command)

	b.exec(t, `UPDATE task_def SET command = 'echo changed' WHERE definition_id = $1`, d.DefinitionID)
	assert.Equal(t, "echo changed", *b.run(t, d, state.ExecutionRequestCommon{}).Command)
	created, err = byAlias(d.Alias)
	require.NoError(t, err)
	assert.Equal(t, "echo changed", *created.Run.Command)
	assert.Equal(t, CommandHash("echo changed"), *created.Run.CommandHash)
	key := "once"
	first := b.run(t, d, state.ExecutionRequestCommon{IdempotenceKey: &key})
	b.exec(t, `UPDATE task_def SET command = 'echo again' WHERE definition_id = $1`, d.DefinitionID)
	assert.Equal(t, first.RunID, b.run(t, d, state.ExecutionRequestCommon{IdempotenceKey: &key}).RunID)
	other := "another"
	assert.Equal(t, "echo again", *b.run(t, d, state.ExecutionRequestCommon{IdempotenceKey: &other}).Command)

	b.exec(t, `UPDATE task_def SET alias = 'moved' WHERE definition_id = $1`, d.DefinitionID)
	heir := b.definition(t, func(heir *state.Definition) { heir.Alias = d.Alias })
	created, err = byAlias(d.Alias)
	require.NoError(t, err)
	assert.Equal(t, heir.DefinitionID, created.Run.DefinitionID)

	b.exec(t, `UPDATE task_def SET target_cluster = 'gone' WHERE definition_id = $1`, d.DefinitionID)
	_, err = b.executions.CreateFromDefinition(t.Context(), DefinitionRef{ID: d.DefinitionID}, request(state.ExecutionRequestCommon{}))
	require.ErrorAs(t, err, new(state.MalformedInput))
	b.exec(t, `UPDATE task_def SET target_cluster = NULL WHERE definition_id = $1`, d.DefinitionID)
	b.run(t, d, state.ExecutionRequestCommon{})

	b.exec(t, `DELETE FROM task_def WHERE definition_id = $1`, d.DefinitionID)
	_, err = b.executions.CreateFromDefinition(t.Context(), DefinitionRef{ID: d.DefinitionID}, request(state.ExecutionRequestCommon{}))
	require.ErrorAs(t, err, new(state.MissingResource))
}

// definitionReads counts how often a definition is read.
type definitionReads struct {
	ExecutionStore
	count int
}

func (r *definitionReads) GetDefinition(ctx context.Context, id string) (state.Definition, error) {
	r.count++
	return r.ExecutionStore.GetDefinition(ctx, id)
}

func TestCreateReadsADefinitionOnceIn10Seconds(t *testing.T) {
	t.Parallel()
	reads := &definitionReads{}
	b := newBench(t, func(s *setup) {
		s.store = func(inner ExecutionStore) ExecutionStore { reads.ExecutionStore = inner; return reads }
	})
	d := b.definition(t, nil)
	for range 3 {
		b.run(t, d, state.ExecutionRequestCommon{})
	}
	assert.Equal(t, 1, reads.count)
	b.exec(t, `UPDATE task_def SET memory = 600 WHERE definition_id = $1`, d.DefinitionID)
	for range 3 {
		b.run(t, d, state.ExecutionRequestCommon{})
	}
	assert.Equal(t, 3, reads.count, "once for the change, once for the runs after it")
	b.clock.Advance(cacheAge)
	b.run(t, d, state.ExecutionRequestCommon{})
	assert.Equal(t, 4, reads.count)
}
