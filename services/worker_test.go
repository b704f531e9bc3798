package services

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/state"
)

func TestWorkers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	require.NoError(t, b.EnsureWorkers(t.Context(), config.Default().Workers.CountPerInstance))

	_, err := b.db.Exec(`INSERT INTO worker (worker_type, engine, count_per_instance) VALUES ('cloudtrail', 'eks', 1)`)
	require.NoError(t, err)

	list, err := b.workers.List(t.Context())
	require.NoError(t, err)
	assert.Len(t, list, 3, "one per type")
	w, err := b.workers.Update(t.Context(), state.WorkerSubmit, 0)
	require.NoError(t, err)
	assert.Equal(t, state.Worker{WorkerType: state.WorkerSubmit, Engine: state.EKSEngine}, w)
	list, err = b.workers.UpdateAll(t.Context(), []state.Worker{{WorkerType: state.WorkerRetry, CountPerInstance: 2, Engine: "ignored"}, {WorkerType: state.WorkerSubmit, CountPerInstance: 5}})
	require.NoError(t, err)
	assert.Len(t, list, 3)
	w, err = b.workers.Get(t.Context(), state.WorkerSubmit)
	require.NoError(t, err)
	assert.EqualValues(t, 5, w.CountPerInstance)
	var others int
	require.NoError(t, b.db.QueryRow(`SELECT count(*) FROM worker WHERE worker_type = 'submit' AND count_per_instance <> 5`).Scan(&others))
	assert.Zero(t, others, "an update sets all engines")
	assert.Contains(t, b.log.String(), "worker_count_updated")

	for name, wrong := range map[string][]state.Worker{
		"no such type":   {{WorkerType: "cook", CountPerInstance: 1}},
		"below nothing":  {{WorkerType: state.WorkerSubmit, CountPerInstance: -1}},
		"absurd":         {{WorkerType: state.WorkerSubmit, CountPerInstance: 1 << 40}},
		"twice":          {{WorkerType: state.WorkerSubmit}, {WorkerType: state.WorkerSubmit}},
		"one of several": {{WorkerType: state.WorkerSubmit, CountPerInstance: 9}, {WorkerType: "x"}},
	} {
		var malformed state.MalformedInput
		_, err := b.workers.UpdateAll(t.Context(), wrong)
		require.ErrorAs(t, err, &malformed, name)
	}
	w, err = b.workers.Get(t.Context(), state.WorkerSubmit)
	require.NoError(t, err)
	assert.EqualValues(t, 5, w.CountPerInstance, "all or nothing")
	var malformed state.MalformedInput
	_, err = b.workers.Get(t.Context(), "cook")
	require.ErrorAs(t, err, &malformed)
}
