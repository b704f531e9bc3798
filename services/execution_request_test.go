package services

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

func TestMalformedRequests(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	d := b.definition(t, func(d *state.Definition) { d.Env = state.EnvList{{Name: "D", Value: strings.Repeat("d", 100_000)}} })
	type common = state.ExecutionRequestCommon
	env := func(n int) (list state.EnvList) {
		for range n {
			list = append(list, state.EnvVar{Name: "N", Value: strings.Repeat("v", 100_000)})
		}
		return list
	}
	cases := map[string]struct {
		req  common
		want string
	}{
		"an engine that there is not":        {common{Engine: new("emr")}, "engine"},
		"spark without its extension":        {common{Engine: new("eks-spark")}, "spark_extension"},
		"a lifecycle that there is not":      {common{NodeLifecycle: new("reserved")}, "node_lifecycle"},
		"negative memory":                    {common{Memory: new(int64(-1))}, "memory"},
		"absurd memory":                      {common{Memory: new(int64(1 << 40))}, "memory"},
		"negative cpu":                       {common{CPU: new(int64(-1))}, "cpu"},
		"absurd cpu":                         {common{CPU: new(int64(1 << 62))}, "cpu"},
		"negative gpu":                       {common{GPU: new(int64(-1))}, "gpu"},
		"absurd gpu":                         {common{GPU: new(int64(1 << 31))}, "gpu"},
		"negative storage":                   {common{EphemeralStorage: new(int64(-1))}, "ephemeral_storage"},
		"absurd storage":                     {common{EphemeralStorage: new(int64(1 << 31))}, "ephemeral_storage"},
		"a deadline of no time":              {common{ActiveDeadlineSeconds: new(int64(0))}, "active_deadline_seconds"},
		"an absurd deadline":                 {common{ActiveDeadlineSeconds: new(int64(1 << 31))}, "active_deadline_seconds"},
		"a label key with a space":           {common{Labels: state.Labels{"a b": "c"}}, "label key"},
		"an empty label key":                 {common{Labels: state.Labels{"": "c"}}, "label key"},
		"a label key that is too long":       {common{Labels: state.Labels{strings.Repeat("k", 64): "c"}}, "label key"},
		"a command too long":                 {common{Command: new(strings.Repeat("x", 131_072))}, "131071"},
		"command and env too long together":  {common{Env: env(10)}, "together"},
		"one variable too long to be passed": {common{Env: state.EnvList{{Name: "A", Value: strings.Repeat("x", 131_071)}}}, "env[0]"},
		"a variable without a name":          {common{Env: state.EnvList{{Name: "A"}, {Value: "x"}}}, "env[1].name"},
		"a variable's name with =":           {common{Env: state.EnvList{{Name: "A=B"}}}, "env[0].name"},
		"NUL in a command":                   {common{Command: new("a\x00b")}, "NUL"},
		"NUL in a variable":                  {common{Env: state.EnvList{{Name: "A", Value: "\x00"}}}, "NUL"},
		"NUL in a label":                     {common{Labels: state.Labels{"a": "\x00"}}, "NUL"},
		"NUL in a description":               {common{Description: new("\x00")}, "NUL"},
		"NUL in a spark extension":           {common{SparkExtension: &state.SparkExtension{AppURI: new("a\x00")}}, "NUL"},
		"an idempotence key of 1 MB":         {common{IdempotenceKey: new(strings.Repeat("k", 1<<20))}, "idempotence_key"},
		"an owner of 1 MB":                   {common{OwnerID: strings.Repeat("o", 1<<20)}, "owner_id"},
		"a tier of 1 MB":                     {common{Tier: new(strings.Repeat("t", 1<<20))}, "tier"},
		"an engine of 1 MB":                  {common{Engine: new(strings.Repeat("e", 1<<20))}, "engine"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := b.executions.CreateFromDefinition(t.Context(), DefinitionRef{ID: d.DefinitionID}, request(c.req))
			var malformed state.MalformedInput
			require.ErrorAs(t, err, &malformed)
			assert.Contains(t, malformed.Message, c.want)
			assert.Less(t, len(malformed.Message), 1_500)
		})
	}
	t.Cleanup(func() {
		var count int
		require.NoError(t, b.db.QueryRow(`SELECT count(*) FROM task`).Scan(&count))
		assert.Zero(t, count, "nothing was stored")
	})
}

func TestRequestsAtTheirLimits(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	d := b.definition(t, nil)
	type common = state.ExecutionRequestCommon
	for name, req := range map[string]common{
		"the longest command":        {Command: new(strings.Repeat("x", 131_071))},
		"the largest numbers":        {Memory: new(int64(maxAmount)), CPU: new(int64(maxAmount)), GPU: new(int64(maxGPU)), EphemeralStorage: new(int64(maxAmount)), ActiveDeadlineSeconds: new(int64(maxAmount))},
		"numbers of nothing":         {Memory: new(int64(0)), CPU: new(int64(0)), GPU: new(int64(0))},
		"a description of 1 MB":      {Description: new(strings.Repeat("d", 1<<20))},
		"a label key with a prefix":  {Labels: state.Labels{"example.com/team": "any value; even this"}},
		"the longest variable":       {Env: state.EnvList{{Name: "A", Value: strings.Repeat("x", 131_069)}}},
		"a backslash before u0000":   {SparkExtension: &state.SparkExtension{AppURI: new(`\u0000`)}},
		"the longest key":            {IdempotenceKey: new(strings.Repeat("ž", 256))},
		"the word of old clients":    {Engine: new("ecs")},
		"an empty engine":            {Engine: new("")},
		"a text that is no good key": {Tier: new("'; drop table task; --")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.NotEmpty(t, b.run(t, d, req).RunID)
		})
	}
}

func TestEngineOfARequest(t *testing.T) {
	t.Parallel()
	spark := &state.SparkExtension{}
	cases := map[string]struct {
		engine *string
		spark  *state.SparkExtension
		want   string
	}{
		"absent":                    {nil, nil, "eks"},
		"absent, with an extension": {nil, spark, "eks-spark"},
		"ecs":                       {new("ecs"), nil, "eks"},
		"ecs, with an extension":    {new("ecs"), spark, "eks-spark"},
		"eks":                       {new("eks"), nil, "eks"},
		"eks-spark":                 {new("eks-spark"), spark, "eks-spark"},
		"eks-spark without one":     {new("eks-spark"), nil, ""},
		"in capitals":               {new("EKS"), nil, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var f faults
			got := f.engine(state.ExecutionRequestCommon{Engine: c.engine, SparkExtension: c.spark})
			assert.Equal(t, c.want == "", f.err() != nil)
			if c.want != "" {
				assert.Equal(t, c.want, *got)
			}
		})
	}
}
