package adapter

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

func TestNoLookupWithoutACommand(t *testing.T) {
	t.Parallel()
	for name, hash := range map[string]*string{"a NULL hash": nil, "an empty hash": new("")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &history{found: state.Size{Memory: 9999, CPU: 9999}}
			b := makeBench(t, h, nil)
			run := makeRun(func(r *state.Run) { r.Command, r.CommandHash = nil, hash })
			got := b.accept(t, makeDefinition(1024, 1000), run)
			assert.Equal(t, equally(1024, 1000), got)
			assert.Empty(t, h.asked)
			counts, _ := b.measured(t)
			assert.Equal(t, map[string]int64{"null_command_hash": 1}, counts)
			assert.Equal(t, []map[string]any{{
				"level": "WARN", "msg": "Skipping ARA - NULL command_hash",
				"reason": "Job has no command (malformed definition)", "run_id": "eks-1", "definition_id": "def-1",
			}}, b.lines(t))
		})
	}
}

func TestNoLookupIfARAIsOff(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		config     func(*config.ARA)
		definition func(*state.Definition)
		run        func(*state.Run)
		gpu        int64
	}{
		"the run asks for a GPU":                             {run: func(r *state.Run) { r.GPU = new(int64(2)) }, gpu: 2},
		"the definition has a GPU":                           {definition: func(d *state.Definition) { d.GPU = new(int64(1)) }, gpu: 1},
		"zero GPUs of the run leave those of the definition": {definition: func(d *state.Definition) { d.GPU = new(int64(1)) }, run: func(r *state.Run) { r.GPU = new(int64(0)) }, gpu: 1},
		"the definition turns it off":                        {definition: func(d *state.Definition) { d.AdaptiveResourceAllocation = new(false) }},
		"the configuration turns it off":                     {config: func(c *config.ARA) { c.Enabled = false }},
		"it is off and there is no command": {config: func(c *config.ARA) { c.Enabled = false },
			run: func(r *state.Run) { r.CommandHash = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &history{found: state.Size{Memory: 9999, CPU: 9999}}
			b := makeBench(t, h, tc.config)
			definition := makeDefinition(1024, 1000)
			if tc.definition != nil {
				tc.definition(&definition)
			}
			got := b.accept(t, definition, makeRun(tc.run))
			want := equally(1024, 1000)
			want.GPU = tc.gpu
			assert.Equal(t, want, got)
			assert.Empty(t, h.asked)
			counts, _ := b.measured(t)
			assert.Empty(t, counts)
			assert.Empty(t, b.lines(t))
		})
	}
}

func TestARAIsOnUnlessTheDefinitionTurnsItOff(t *testing.T) {
	t.Parallel()
	for name, wish := range map[string]*bool{"true": new(true), "absent": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := makeBench(t, &history{found: state.Size{Memory: 896, CPU: 1}}, nil)
			template := state.Template{TemplateID: "tpl-1", AdaptiveResourceAllocation: wish}
			got := b.accept(t, template, makeRun(nil))
			assert.Equal(t, equally(896, 250), got)
		})
	}
}

func TestMaximum(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		memory, cpu, gpu int64
		found            state.Size
		config           func(*config.ARA)
		want             Resources
		hits             []string
		message          string
		fields           map[string]any
	}{
		"memory at the maximum is no hit": {memory: 350_000, cpu: 60_000, want: equally(350_000, 60_000)},
		"an estimate above the maximum": {memory: 300_000, cpu: 1000, found: state.Size{Memory: 525_000, CPU: 1250},
			want: equally(350_000, 1250), hits: []string{"hit_max_memory"},
			message: "ARA memory allocation hit maximum limit - potential over-provisioning",
			fields: map[string]any{"default_memory_mb": 300_000.0, "requested_memory_mb": 525_000.0, "final_memory_mb": 350_000.0,
				"memory_overage_mb": 175_000.0}},
		"only cpu above the maximum": {memory: 1024, cpu: 60_001, want: equally(1024, 60_000), hits: []string{"hit_max_cpu"},
			message: "ARA resource allocation hit maximum limit",
			fields: map[string]any{"default_cpu_millicores": 60_001.0, "requested_cpu_millicores": 60_001.0,
				"final_cpu_millicores": 60_000.0, "cpu_overage_millicores": 1.0}},
		"both above the maximum": {memory: 400_000, cpu: 61_000, want: equally(350_000, 60_000),
			hits:    []string{"hit_max_memory", "hit_max_cpu"},
			message: "ARA memory allocation hit maximum limit - potential over-provisioning",
			fields:  map[string]any{"memory_overage_mb": 50_000.0, "cpu_overage_millicores": 1000.0}},
		"GPUs have their own maximum": {memory: 376_000, cpu: 94_000, gpu: 1,
			want: Resources{Size: state.Size{Memory: 376_000, CPU: 94_000}, Limit: state.Size{Memory: 376_000, CPU: 94_000}, GPU: 1}},
		"above the maximum beside GPUs": {memory: 376_001, cpu: 94_001, gpu: 1,
			want:    Resources{Size: state.Size{Memory: 376_000, CPU: 94_000}, Limit: state.Size{Memory: 376_000, CPU: 94_000}, GPU: 1},
			hits:    []string{"hit_max_memory", "hit_max_cpu"},
			message: "ARA memory allocation hit maximum limit - potential over-provisioning",
			fields:  map[string]any{"memory_overage_mb": 1.0}},
		"bounds from the configuration, and rounding that stays below": {memory: 4000, cpu: 4000,
			config: func(c *config.ARA) { c.MaxMemory, c.MaxCPU = 3000, 1200 },
			want:   equally(3000, 1000), hits: []string{"hit_max_memory", "hit_max_cpu"},
			message: "ARA memory allocation hit maximum limit - potential over-provisioning",
			fields:  map[string]any{"final_cpu_millicores": 1000.0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := makeBench(t, &history{found: tc.found}, tc.config)
			run := makeRun(func(r *state.Run) { r.GPU = &tc.gpu })
			got := b.accept(t, makeDefinition(tc.memory, tc.cpu), run)
			assert.Equal(t, tc.want, got)
			counts, _ := b.measured(t)
			for _, counter := range []string{"hit_max_memory", "hit_max_cpu"} {
				want := int64(0)
				if slices.Contains(tc.hits, counter) {
					want = 1
				}
				assert.Equal(t, want, counts[counter], counter)
			}
			warned := warnings(b.lines(t))
			if tc.message == "" {
				assert.Empty(t, warned)
				return
			}
			require.Len(t, warned, 1)
			assert.Equal(t, tc.message, warned[0]["msg"])
			assert.Subset(t, warned[0], tc.fields)
			assert.Equal(t, "eks-1", warned[0]["run_id"])
			for field := range warned[0] {
				if !slices.Contains(tc.hits, "hit_max_cpu") {
					assert.NotContains(t, field, "millicores")
				}
			}
		})
	}
}

func warnings(lines []map[string]any) (out []map[string]any) {
	for _, line := range lines {
		if line["level"] == "WARN" {
			out = append(out, line)
		}
	}
	return out
}

func TestAGivenSizeIsKept(t *testing.T) {
	t.Parallel()
	given := func(r *state.Run) {
		r.RequestedMemory, r.RequestedCPU = new(int64(512)), new(int64(500))
		r.Memory, r.MemoryLimit, r.CPU, r.CPULimit = new(int64(896)), new(int64(900)), new(int64(750)), new(int64(1000))
	}
	kept := Resources{Size: state.Size{Memory: 896, CPU: 750}, Limit: state.Size{Memory: 900, CPU: 1000}}
	for name, tc := range map[string]struct {
		run  func(*state.Run)
		want Resources
	}{
		"a retry":                       {func(r *state.Run) { given(r); r.AttemptCount = new(int64(2)) }, kept},
		"accepted, and returned since":  {func(r *state.Run) { given(r); r.AttemptCount = new(int64(1)) }, kept},
		"a retry without stored limits": {func(r *state.Run) { given(r); r.MemoryLimit, r.CPULimit, r.AttemptCount = nil, nil, new(int64(2)) }, equally(896, 750)},
		"limits stored below":           {func(r *state.Run) { given(r); r.MemoryLimit, r.CPULimit = new(int64(1)), new(int64(1)) }, equally(896, 750)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := &history{found: state.Size{Memory: 9999, CPU: 9999}}
			b := makeBench(t, h, nil)
			got := b.accept(t, makeDefinition(4096, 4000), makeRun(tc.run))
			assert.Equal(t, tc.want, got)
			assert.Empty(t, h.asked)
			assert.Empty(t, b.recorder.Seen())
		})
	}
}

func TestADecisionIsReportedOnceTheRunIsAccepted(t *testing.T) {
	t.Parallel()
	b := makeBench(t, &history{found: state.Size{Memory: 525_000, CPU: 1}}, nil)
	var last Sized
	for range 3 {
		var err error
		last, err = b.Resources(t.Context(), makeDefinition(512, 1000), makeRun(nil), state.Size{})
		require.NoError(t, err)
		assert.Equal(t, equally(350_000, 1000), last.Resources)
		assert.Empty(t, b.recorder.Seen())
		assert.Empty(t, b.lines(t))
	}
	b.Report(t.Context(), makeRun(nil), last)
	counts, _ := b.measured(t)
	assert.Equal(t, map[string]int64{"estimation_attempted": 1, "estimation_succeeded": 1,
		"resource_adjustment": 1, "hit_max_memory": 1}, counts)
}

func TestCapacityCutsWhatWasLearnt(t *testing.T) {
	t.Parallel()
	b := makeBench(t, &history{found: state.Size{Memory: 1568, CPU: 1250}}, nil)
	sized, err := b.Resources(t.Context(), makeDefinition(512, 1000), makeRun(nil), state.Size{Memory: 1500})
	require.NoError(t, err)
	assert.Equal(t, equally(1500, 1250), sized.Resources, "the capacity of cpu is not known")
	assert.Equal(t, state.Size{Memory: 1568, CPU: 1250}, sized.Decision.Learnt)
}

func TestNewNeedsItsParts(t *testing.T) {
	t.Parallel()
	logger := slog.New(slog.DiscardHandler)
	_, err := New(AdapterConfig{Logger: logger})
	assert.Error(t, err)
	_, err = New(AdapterConfig{Estimator: nothingLearnt()})
	assert.Error(t, err)
	a, err := New(AdapterConfig{Logger: logger, Estimator: nothingLearnt()})
	require.NoError(t, err)
	assert.Equal(t, metrics.Nop{}, a.metrics)
	_, err = a.Resources(t.Context(), nil, makeRun(nil), state.Size{})
	assert.ErrorContains(t, err, "executable")
}
