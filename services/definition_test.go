package services

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

func TestCreateDefinition(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := WithActor(t.Context(), Actor{Token: "ci"})
	d, err := b.definitions.Create(ctx, state.Definition{
		Alias: "a/b", Image: "busybox", GroupName: "my group", Ports: []int64{80, 443, 80}, Tags: []string{"x", "y", "x"},
		Env: state.EnvList{{Name: "A", Value: "1"}, {Name: "FLOTILLA_RUN_ID", Value: "x"}}, Memory: new(int64(512)),
	})
	require.NoError(t, err)
	assert.Regexp(t, `^my-group-[0-9a-f-]{36}$`, d.DefinitionID)
	assert.ElementsMatch(t, []int64{80, 443}, d.Ports)
	assert.ElementsMatch(t, []string{"x", "y"}, d.Tags)
	assert.Equal(t, state.EnvList{{Name: "A", Value: "1"}}, d.Env, "reserved names are dropped")
	assert.Nil(t, d.Command)
	assert.Contains(t, b.log.String(), `"event":"definition_created","who":"ci"`)

	got, err := b.definitions.GetByAlias(t.Context(), "a/b")
	require.NoError(t, err)
	assert.Equal(t, d, got)

	var conflict state.ConflictingResource
	_, err = b.definitions.Create(ctx, state.Definition{Alias: "a/b", Image: "busybox"})
	require.ErrorAs(t, err, &conflict)
}

func TestMalformedDefinitions(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	stored := b.definition(t, nil)
	long := strings.Repeat("x", 1<<20)
	cases := map[string]struct {
		change func(*state.Definition)
		want   []string
	}{
		"everything is missing":         {func(d *state.Definition) { *d = state.Definition{} }, []string{"image and alias"}},
		"an alias of 1 MB":              {func(d *state.Definition) { d.Alias = long }, []string{"alias"}},
		"a group of 1 MB":               {func(d *state.Definition) { d.GroupName = long }, []string{"group_name"}},
		"an image of 1 MB":              {func(d *state.Definition) { d.Image = long }, []string{"image"}},
		"a command of 1 MB":             {func(d *state.Definition) { d.Command = &long }, []string{"command"}},
		"NUL in an alias":               {func(d *state.Definition) { d.Alias = "a\x00" }, []string{"NUL"}},
		"ports out of range":            {func(d *state.Definition) { d.Ports = []int64{0, 80, 65_536} }, []string{"ports[0]", "ports[2]"}},
		"an empty tag":                  {func(d *state.Definition) { d.Tags = []string{""} }, []string{"tags[0]"}},
		"a variable without a name":     {func(d *state.Definition) { d.Env = state.EnvList{{Value: "x"}} }, []string{"env[0].name"}},
		"several faults are all listed": {func(d *state.Definition) { d.Memory, d.CPU = new(int64(-1)), new(int64(1<<40)) }, []string{"memory", "cpu"}},
		"absurd storage":                {func(d *state.Definition) { d.EphemeralStorage = new(int64(1 << 40)) }, []string{"ephemeral_storage"}},
		"absurd gpu":                    {func(d *state.Definition) { d.GPU = new(int64(1 << 40)) }, []string{"gpu"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := state.Definition{Alias: "fine", Image: "busybox"}
			c.change(&d)
			_, err := b.definitions.Create(t.Context(), d)
			var malformed state.MalformedInput
			require.ErrorAs(t, err, &malformed)
			for _, want := range c.want {
				assert.Contains(t, malformed.Message, want)
			}
			assert.Less(t, len(malformed.Message), 2_500)
			if d.Alias == "" {
				d.Image = ""
			}
			_, err = b.definitions.Update(t.Context(), stored.DefinitionID, updateOfDefinition(d))
			require.ErrorAs(t, err, &malformed, "an update follows the same rules")
		})
	}
}

func updateOfDefinition(d state.Definition) state.DefinitionUpdate {
	return state.DefinitionUpdate{Definition: d, Set: state.Columns{
		"alias", "image", "group_name", "command", "memory", "cpu", "gpu", "ephemeral_storage", "env", "ports", "tags",
	}}
}

func TestUpdateAndDeleteDefinition(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	d := b.definition(t, func(d *state.Definition) { d.Memory, d.Tags = new(int64(1)), []string{"t"} })
	env := state.EnvList{{Name: "FLOTILLA_RUN_OWNER_ID", Value: "x"}, {Name: "B", Value: "2"}}
	got, err := b.definitions.Update(t.Context(), d.DefinitionID, state.DefinitionUpdate{
		Definition: state.Definition{Image: "alpine", Env: env}, Set: state.Columns{"image", "env"},
	})
	require.NoError(t, err)
	assert.Equal(t, "alpine", got.Image)
	assert.Equal(t, state.EnvList{{Name: "B", Value: "2"}}, got.Env)
	assert.Equal(t, d.Memory, got.Memory, "absent fields stay")
	assert.Equal(t, d.Tags, got.Tags)
	assert.Contains(t, b.log.String(), "definition_updated")

	run := b.run(t, got, state.ExecutionRequestCommon{})
	var conflict state.ConflictingResource
	require.ErrorAs(t, b.definitions.Delete(t.Context(), d.DefinitionID), &conflict)
	require.NoError(t, b.executions.Stop(t.Context(), run.RunID, ""))
	require.NoError(t, b.definitions.Delete(t.Context(), d.DefinitionID))
	assert.Contains(t, b.log.String(), "definition_deleted")
	var missing state.MissingResource
	require.ErrorAs(t, b.definitions.Delete(t.Context(), d.DefinitionID), &missing)
	_, err = b.definitions.Update(t.Context(), d.DefinitionID, state.DefinitionUpdate{})
	require.ErrorAs(t, err, &missing)
}
