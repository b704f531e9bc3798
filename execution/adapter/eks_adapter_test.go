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
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

const testHash = "5d41402abc4b2a76b9719d911017c592"

// history is what the tests' past taught; it notes who asked.
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

// recorder keeps what was measured, by the name behind engine.eks.ara.
type recorder struct {
	t      *testing.T
	counts map[string]int64
	values map[string]float64
}

var _ metrics.Client = (*recorder)(nil)

func (r *recorder) Increment(m metrics.Metric, tags []string, n int64) {
	r.counts[r.name(m, tags, metrics.Counter)] += n
}

func (r *recorder) Distribution(m metrics.Metric, tags []string, value float64) {
	name := r.name(m, tags, metrics.Distribution, metrics.Histogram)
	assert.NotContains(r.t, r.values, name, "measured twice")
	r.values[name] = value
}

func (r *recorder) Gauge(m metrics.Metric, _ []string, _ float64)        { r.t.Errorf("gauge %s", m) }
func (r *recorder) Timing(m metrics.Metric, _ []string, _ time.Duration) { r.t.Errorf("timing %s", m) }
func (r *recorder) Close() error                                         { return nil }

func (r *recorder) name(m metrics.Metric, tags []string, kinds ...metrics.Kind) string {
	d, known := metrics.Lookup(m)
	assert.True(r.t, known, m)
	assert.Contains(r.t, kinds, d.Kind, m)
	assert.Equal(r.t, []string{"engine:eks", "cluster:prod"}, tags, m)
	return strings.TrimPrefix(string(m), "engine.eks.ara.")
}

// bench is an adapter whose measurements and logs can be read.
type bench struct {
	*Adapter
	*recorder
	logs *bytes.Buffer
}

func makeBench(t *testing.T, h *history, change func(*config.ARA)) bench {
	t.Helper()
	b := bench{recorder: &recorder{t: t, counts: map[string]int64{}, values: map[string]float64{}}, logs: &bytes.Buffer{}}
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

// lines are the logs without their times.
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
		"nobody says anything": {want: equally(512, 250)},
		"the definition says":  {definition: makeDefinition(2048, 2000), want: equally(2048, 2000)},
		"the run says more than the definition": {
			definition: makeDefinition(2048, 2000),
			run:        func(r *state.Run) { r.RequestedMemory, r.RequestedCPU = new(int64(4096)), new(int64(3000)) },
			want:       equally(4096, 3000),
		},
		"the run says less than the definition": {
			definition: makeDefinition(2048, 2000),
			run:        func(r *state.Run) { r.RequestedMemory = new(int64(1024)) },
			want:       equally(1024, 2000),
		},
		"a zero says nothing": {
			definition: makeDefinition(2048, 0),
			run:        func(r *state.Run) { r.RequestedMemory, r.RequestedCPU = new(int64(0)), new(int64(0)) },
			want:       equally(2048, 250),
		},
		"a row of the old program says in memory and cpu": {
			definition: makeDefinition(2048, 2000),
			run:        func(r *state.Run) { r.Memory, r.CPU = new(int64(1024)), new(int64(1000)) },
			want:       equally(1024, 1000),
		},
		"memory just below where cpu follows it": {definition: makeDefinition(36_863, 1000), want: equally(36_863, 1000)},
		"memory where cpu follows it":            {definition: makeDefinition(36_864, 1000), want: equally(36_864, 4500)}, // 4608
		"memory with more cpu than follows":      {definition: makeDefinition(40_000, 9000), want: equally(40_000, 9000)},
		"the last memory that cpu follows":       {definition: makeDefinition(131_071, 1000), want: equally(131_071, 16_500)}, // 16,383
		"memory from where cpu no more follows":  {definition: makeDefinition(131_072, 1000), want: equally(131_072, 1000)},
		"cpu does not follow memory beside a GPU": {
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
			got, err := b.Resources(context.Background(), tc.definition, makeRun(tc.run))
			require.NoError(t, err)
			assert.Equal(t, tc.want, got)
			assert.Equal(t, float64(got.Memory), b.values["final_memory_mb"])
			assert.Equal(t, float64(got.CPU), b.values["final_cpu_millicores"])
			assert.Len(t, b.values, 2, "nothing was adjusted")
			assert.NotContains(t, b.counts, "resource_adjustment")
		})
	}
}

func TestHistoryRaisesTheSize(t *testing.T) {
	t.Parallel()
	h := &history{found: state.Size{Memory: 896, CPU: 1250}}
	b := makeBench(t, h, nil)
	got, err := b.Resources(context.Background(), makeDefinition(512, 1000), makeRun(nil))
	require.NoError(t, err)
	assert.Equal(t, equally(896, 1250), got)
	assert.Equal(t, []string{"def-1 " + testHash}, h.asked)
	assert.Equal(t, map[string]int64{"estimation_attempted": 1, "estimation_succeeded": 1, "resource_adjustment": 1}, b.counts)
	assert.Equal(t, map[string]float64{
		"memory_increase_ratio": 1.75, "cpu_increase_ratio": 1.25, "final_memory_mb": 896, "final_cpu_millicores": 1250,
		"default_memory": 512, "ara_memory": 896, "memory_increase": 384,
		"default_cpu": 1000, "ara_cpu": 1250, "cpu_increase": 250,
	}, b.values)
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
			got, err := b.Resources(context.Background(), makeDefinition(4096, 2000), makeRun(nil))
			require.NoError(t, err)
			assert.Equal(t, tc.want, got)
			assert.Equal(t, tc.count, b.counts)
		})
	}
}

func TestHistoryThatCannotBeReadLeavesTheDefault(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err   error
		count string
		level string
		log   string
	}{
		"nothing was learnt": {fmt.Errorf("look up: %w", state.Missingf("none")), "no_historical_data", "INFO", "ARA: No historical resource data found"},
		"the query failed":   {errors.New("disk on fire"), "estimation_failed", "ERROR", "ARA: Error querying historical resource data"},
		"the lookup took too long": {context.DeadlineExceeded, "estimation_failed", "ERROR",
			"ARA: Error querying historical resource data"},
		"the database is away": {state.Unavailable{Err: errors.New("refused")}, "estimation_failed", "ERROR",
			"ARA: Error querying historical resource data"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := makeBench(t, &history{err: tc.err}, nil)
			got, err := b.Resources(context.Background(), makeDefinition(1024, 1000), makeRun(nil))
			require.NoError(t, err)
			assert.Equal(t, equally(1024, 1000), got)
			assert.Equal(t, map[string]int64{"estimation_attempted": 1, tc.count: 1}, b.counts)
			lines := b.lines(t)
			require.Len(t, lines, 1)
			assert.Equal(t, tc.level, lines[0]["level"])
			assert.Equal(t, tc.log, lines[0]["msg"])
			assert.Equal(t, "eks-1", lines[0]["run_id"])
		})
	}
}

func TestWhoIsToldToStopHandsOutNoSize(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b := makeBench(t, &history{found: state.Size{Memory: 896, CPU: 1}}, nil)
	_, err := b.Resources(ctx, makeDefinition(512, 1000), makeRun(nil))
	assert.ErrorIs(t, err, context.Canceled)
	assert.Empty(t, b.counts)
	assert.Empty(t, b.values)
}
