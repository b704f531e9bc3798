package adapter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/metrics/metricstest"
	"github.com/stitchfix/flotilla-os/state"
)

const testHash = "5d41402abc4b2a76b9719d911017c592"

// history returns what memory kills taught and keeps the lookups.
type history struct {
	found state.Size
	err   error
	asked []string
}

func (h *history) EstimateRunResources(ctx context.Context, executableID, commandHash string) (state.Size, error) {
	h.asked = append(h.asked, executableID+" "+commandHash)
	if _, bounded := ctx.Deadline(); !bounded {
		return state.Size{}, errors.New("the lookup has no deadline")
	}
	if h.err != nil {
		return state.Size{}, h.err
	}
	return h.found, ctx.Err()
}

func nothingLearnt() *history { return &history{err: state.Missingf("no history")} }

// bench is an adapter whose measurements and logs can be read.
type bench struct {
	*Adapter
	recorder *metricstest.Recorder
	logs     *bytes.Buffer
}

func makeBench(t *testing.T, h *history, change func(*config.ARA)) bench {
	t.Helper()
	b := bench{recorder: metricstest.New(t), logs: &bytes.Buffer{}}
	ara := config.Default().ARA
	if change != nil {
		change(&ara)
	}
	var err error
	b.Adapter, err = New(AdapterConfig{
		ARA: ara, Metrics: b.recorder, Logger: slog.New(slog.NewJSONHandler(b.logs, nil)), Estimator: h,
	})
	require.NoError(t, err)
	return b
}

// accept sizes a run and reports the decision, as an engine does for a run that is accepted.
func (b bench) accept(t *testing.T, executable state.Executable, run state.Run) Resources {
	t.Helper()
	sized, err := b.Resources(t.Context(), executable, run, state.Size{})
	require.NoError(t, err)
	b.Report(t.Context(), run, sized)
	return sized.Resources
}

// measured returns what was measured for the cluster prod, by the name after engine.eks.ara. Each distribution has to
// have one value.
func (b bench) measured(t *testing.T) (counts map[string]int64, values map[string]float64) {
	t.Helper()
	counts, values = map[string]int64{}, map[string]float64{}
	for m := range b.recorder.Seen() {
		name := strings.TrimPrefix(string(m), "engine.eks.ara.")
		if d, _ := metrics.Lookup(m); d.Kind == metrics.Counter {
			counts[name] = b.recorder.Count(m, "engine:eks", "cluster:prod")
			continue
		}
		recorded := b.recorder.Values(m, "engine:eks", "cluster:prod")
		require.Len(t, recorded, 1, m)
		values[name] = recorded[0]
	}
	return counts, values
}

// lines returns the logs without their times.
func (b bench) lines(t *testing.T) []map[string]any {
	t.Helper()
	var lines []map[string]any
	for text := range strings.Lines(b.logs.String()) {
		var line map[string]any
		require.NoError(t, json.Unmarshal([]byte(text), &line))
		delete(line, "time")
		lines = append(lines, line)
	}
	return lines
}

func makeDefinition(memory, cpu int64) state.Definition {
	d := state.Definition{DefinitionID: "def-1"}
	if memory > 0 {
		d.Memory = &memory
	}
	if cpu > 0 {
		d.CPU = &cpu
	}
	return d
}

func makeRun(change func(*state.Run)) state.Run {
	run := state.Run{
		RunID: "eks-1", DefinitionID: "def-1", ClusterName: "prod", Engine: state.EKSEngine,
		Command: new("run it"), CommandHash: new(testHash),
	}
	if change != nil {
		change(&run)
	}
	return run
}

func equally(memory, cpu int64) Resources {
	return Resources{Size: state.Size{Memory: memory, CPU: cpu}, Limit: state.Size{Memory: memory, CPU: cpu}}
}

func TestDefaultSize(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		definition state.Definition
		run        func(*state.Run)
		want       Resources
	}{
		"neither run nor definition": {want: equally(512, 250)},
		"the definition alone":       {definition: makeDefinition(2048, 2000), want: equally(2048, 2000)},
		"the run asks for more than the definition": {
			definition: makeDefinition(2048, 2000),
			run:        func(r *state.Run) { r.RequestedMemory, r.RequestedCPU = new(int64(4096)), new(int64(3000)) },
			want:       equally(4096, 3000),
		},
		"the run asks for less than the definition": {
			definition: makeDefinition(2048, 2000),
			run:        func(r *state.Run) { r.RequestedMemory = new(int64(1024)) },
			want:       equally(1024, 2000),
		},
		"zero counts as absent": {
			definition: makeDefinition(2048, 0),
			run:        func(r *state.Run) { r.RequestedMemory, r.RequestedCPU = new(int64(0)), new(int64(0)) },
			want:       equally(2048, 250),
		},
		"a row of the program before has memory and cpu only": {
			definition: makeDefinition(2048, 2000),
			run:        func(r *state.Run) { r.Memory, r.CPU = new(int64(1024)), new(int64(1000)) },
			want:       equally(1024, 1000),
		},
		"memory just below the proportional range": {definition: makeDefinition(36_863, 1000), want: equally(36_863, 1000)},
		"the least memory of the range":            {definition: makeDefinition(36_864, 1000), want: equally(36_864, 4500)}, // 4608
		"more cpu than in proportion":              {definition: makeDefinition(40_000, 9000), want: equally(40_000, 9000)},
		"the most memory of the range":             {definition: makeDefinition(131_071, 1000), want: equally(131_071, 16_500)}, // 16,383
		"memory just above the range":              {definition: makeDefinition(131_072, 1000), want: equally(131_072, 1000)},
		"no proportional cpu for a run with a GPU": {
			definition: makeDefinition(65_536, 1000),
			run:        func(r *state.Run) { r.GPU = new(int64(1)) },
			want:       Resources{Size: state.Size{Memory: 65_536, CPU: 1000}, Limit: state.Size{Memory: 65_536, CPU: 1000}, GPU: 1},
		},
		"less than the minimum": {definition: makeDefinition(4, 1), want: equally(512, 250)},
		"cpu is rounded down":   {definition: makeDefinition(512, 1124), want: equally(512, 1000)},
		"cpu is rounded up":     {definition: makeDefinition(512, 1125), want: equally(512, 1250)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := makeBench(t, nothingLearnt(), nil)
			tc.definition.DefinitionID = "def-1"
			got := b.accept(t, tc.definition, makeRun(tc.run))
			assert.Equal(t, tc.want, got)
			counts, values := b.measured(t)
			assert.Equal(t, float64(got.Memory), values["final_memory_mb"])
			assert.Equal(t, float64(got.CPU), values["final_cpu_millicores"])
			assert.Len(t, values, 2, "nothing was adjusted")
			assert.NotContains(t, counts, "resource_adjustment")
		})
	}
}

func TestHistoryRaisesTheSize(t *testing.T) {
	t.Parallel()
	h := &history{found: state.Size{Memory: 896, CPU: 1250}}
	b := makeBench(t, h, nil)
	got := b.accept(t, makeDefinition(512, 1000), makeRun(nil))
	assert.Equal(t, equally(896, 1250), got)
	assert.Equal(t, []string{"def-1 " + testHash}, h.asked)
	counts, values := b.measured(t)
	assert.Equal(t, map[string]int64{"estimation_attempted": 1, "estimation_succeeded": 1, "resource_adjustment": 1}, counts)
	assert.Equal(t, map[string]float64{
		"memory_increase_ratio": 1.75, "cpu_increase_ratio": 1.25, "final_memory_mb": 896, "final_cpu_millicores": 1250,
		"default_memory": 512, "ara_memory": 896, "memory_increase": 384,
		"default_cpu": 1000, "ara_cpu": 1250, "cpu_increase": 250,
	}, values)
	assert.Equal(t, []map[string]any{
		{"level": "INFO", "msg": "ARA: Historical resource data found", "run_id": "eks-1", "definition_id": "def-1",
			"command_hash": testHash, "estimated_memory_mb": 896.0, "estimated_cpu_millicores": 1250.0},
		{"level": "INFO", "msg": "ARA adjusted resources", "run_id": "eks-1", "definition_id": "def-1", "cluster": "prod",
			"default_memory_mb": 512.0, "adjusted_memory_mb": 896.0, "memory_mb_ratio": 1.75,
			"default_cpu_millicores": 1000.0, "adjusted_cpu_millicores": 1250.0, "cpu_millicores_ratio": 1.25},
	}, b.lines(t))
}

func TestHistoryNeverLowersTheSize(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		found state.Size
		want  Resources
		count map[string]int64
	}{
		"both estimates below the default": {state.Size{Memory: 896, CPU: 500}, equally(4096, 2000),
			map[string]int64{"estimation_attempted": 1, "estimation_succeeded": 1}},
		"memory above, cpu below": {state.Size{Memory: 7168, CPU: 500}, equally(7168, 2000),
			map[string]int64{"estimation_attempted": 1, "estimation_succeeded": 1, "resource_adjustment": 1}},
		"memory below, cpu above": {state.Size{Memory: 896, CPU: 2500}, equally(4096, 2500),
			map[string]int64{"estimation_attempted": 1, "estimation_succeeded": 1, "resource_adjustment": 1}},
		"estimates equal to the default": {state.Size{Memory: 4096, CPU: 2000}, equally(4096, 2000),
			map[string]int64{"estimation_attempted": 1, "estimation_succeeded": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := makeBench(t, &history{found: tc.found}, nil)
			got := b.accept(t, makeDefinition(4096, 2000), makeRun(nil))
			assert.Equal(t, tc.want, got)
			counts, _ := b.measured(t)
			assert.Equal(t, tc.count, counts)
		})
	}
}

func TestDefaultWithoutHistory(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err   error
		count string
		level string
		log   string
	}{
		"nothing was learnt": {fmt.Errorf("look up: %w", state.Missingf("none")), "no_historical_data", "INFO", "ARA: No historical resource data found"},
		"the query failed":   {errors.New("disk full"), "estimation_failed", "ERROR", "ARA: Error querying historical resource data"},
		"the lookup took too long": {context.DeadlineExceeded, "estimation_failed", "ERROR",
			"ARA: Error querying historical resource data"},
		"the database is unreachable": {state.Unavailable{Err: errors.New("refused")}, "estimation_failed", "ERROR",
			"ARA: Error querying historical resource data"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := makeBench(t, &history{err: tc.err}, nil)
			got := b.accept(t, makeDefinition(1024, 1000), makeRun(nil))
			assert.Equal(t, equally(1024, 1000), got)
			counts, _ := b.measured(t)
			assert.Equal(t, map[string]int64{"estimation_attempted": 1, tc.count: 1}, counts)
			lines := b.lines(t)
			require.Len(t, lines, 1)
			assert.Equal(t, tc.level, lines[0]["level"])
			assert.Equal(t, tc.log, lines[0]["msg"])
			assert.Equal(t, "eks-1", lines[0]["run_id"])
		})
	}
}

func TestNoSizeAfterTheContextEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b := makeBench(t, &history{found: state.Size{Memory: 896, CPU: 1}}, nil)
	_, err := b.Resources(ctx, makeDefinition(512, 1000), makeRun(nil), state.Size{})
	assert.ErrorIs(t, err, context.Canceled)
	assert.Empty(t, b.recorder.Seen())
}
