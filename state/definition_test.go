package state_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

// fullDefinition returns a definition with every field set.
func fullDefinition(alias string) state.Definition {
	return state.Definition{
		DefinitionID: state.NewDefinitionID("team"), GroupName: "team", Alias: alias, Command: new("echo hi"),
		TaskType: "task", RequiresDocker: true, TargetCluster: new("moon"), Image: "repo/image:1",
		Memory: new(int64(1024)), CPU: new(int64(500)), GPU: new(int64(1)), EphemeralStorage: new(int64(10)),
		Env:        state.EnvList{{Name: "A", Value: "1"}, {Name: "A", Value: "2"}},
		Privileged: new(true), AdaptiveResourceAllocation: new(false),
		Ports: []int64{80, 443}, Tags: []string{"a", "b"},
	}
}

func TestADefinitionIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	full := fullDefinition("full/alias")
	least := state.Definition{DefinitionID: "least", Alias: "least", Image: "image"}
	unversioned := func(d state.Definition) state.Definition {
		assert.NotEmpty(t, d.Version)
		d.Version = ""
		return d
	}
	for _, want := range []state.Definition{full, least} {
		require.NoError(t, s.CreateDefinition(t.Context(), want))
		got, err := s.GetDefinition(t.Context(), want.DefinitionID)
		require.NoError(t, err)
		if want.Ports == nil {
			want.Ports, want.Tags = []int64{}, []string{}
		}
		assert.Equal(t, want, unversioned(got))
		byAlias, err := s.GetDefinitionByAlias(t.Context(), want.Alias)
		require.NoError(t, err)
		assert.Equal(t, want, unversioned(byAlias))
		executable, err := s.GetExecutable(t.Context(), state.ExecutableTypeDefinition, want.DefinitionID)
		require.NoError(t, err)
		assert.Equal(t, got, executable)
	}
}

func TestRepeatedPortsAndTagsAreKeptOnce(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	d := state.Definition{DefinitionID: "d", Alias: "d", Image: "i", Ports: []int64{2, 1, 2}, Tags: []string{"b", "a", "b"}}
	require.NoError(t, s.CreateDefinition(t.Context(), d))
	got, err := s.GetDefinition(t.Context(), "d")
	require.NoError(t, err)
	assert.Equal(t, []int64{1, 2}, got.Ports)
	assert.Equal(t, []string{"a", "b"}, got.Tags)
}

func TestATakenAliasIsAConflict(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	require.NoError(t, s.CreateDefinition(t.Context(), state.Definition{DefinitionID: "1", Alias: "x", Image: "i"}))
	require.NoError(t, s.CreateDefinition(t.Context(), state.Definition{DefinitionID: "2", Alias: "y", Image: "i"}))
	var conflict state.ConflictingResource
	require.ErrorAs(t, s.CreateDefinition(t.Context(), state.Definition{DefinitionID: "3", Alias: "x", Image: "i"}), &conflict)
	assert.Contains(t, conflict.Error(), `"x"`)
	_, err := s.UpdateDefinition(t.Context(), "2", state.DefinitionUpdate{Definition: state.Definition{Alias: "x"}, Set: state.Columns{"alias"}})
	require.ErrorAs(t, err, &conflict)
	_, err = s.UpdateDefinition(t.Context(), "1", state.DefinitionUpdate{Definition: state.Definition{Alias: "x"}, Set: state.Columns{"alias"}})
	require.NoError(t, err, "its own alias is not taken")
}

func TestAnUpdateChangesOnlyWhatItNames(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	start := fullDefinition("start")
	require.NoError(t, s.CreateDefinition(t.Context(), start))
	want := start
	update := func(d state.Definition, set ...string) {
		t.Helper()
		got, err := s.UpdateDefinition(t.Context(), start.DefinitionID, state.DefinitionUpdate{Definition: d, Set: set})
		require.NoError(t, err)
		want.Version = got.Version
		assert.Equal(t, want, got)
	}
	update(state.Definition{Alias: "not named", Memory: new(int64(99))})
	want.GroupName, want.TaskType, want.RequiresDocker, want.TargetCluster = "g", "other", false, new("sun")
	update(want, "group_name", "task_type", "requires_docker", "target_cluster")
	want.Alias, want.Command, want.Image = "end", new("ls"), "image:2"
	update(want, "alias", "command", "image")
	want.Memory, want.CPU, want.GPU, want.EphemeralStorage = new(int64(1)), new(int64(2)), new(int64(3)), new(int64(4))
	update(want, "memory", "cpu", "gpu", "ephemeral_storage")
	want.Env, want.AdaptiveResourceAllocation = state.EnvList{}, new(true)
	update(want, "env", "adaptive_resource_allocation")
	want.Ports, want.Tags = []int64{8080}, []string{}
	update(want, "ports", "tags")
	want.Command, want.TargetCluster = nil, nil
	update(state.Definition{Command: new(""), TargetCluster: new("")}, "command", "target_cluster")
	want.Memory, want.CPU, want.GPU, want.EphemeralStorage, want.AdaptiveResourceAllocation = nil, nil, nil, nil, nil
	update(state.Definition{}, "memory", "cpu", "gpu", "ephemeral_storage", "adaptive_resource_allocation")
}

func TestAnUnknownDefinitionIsMissing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, id := range []string{"unknown", "", "'; drop table task; --", "nul\x00", "not utf-8 \xff", strings.Repeat("x", 1<<20)} {
		var missing state.MissingResource
		_, err := s.GetDefinition(t.Context(), id)
		require.ErrorAs(t, err, &missing)
		_, err = s.GetDefinitionByAlias(t.Context(), id)
		require.ErrorAs(t, err, &missing)
		_, err = s.GetExecutable(t.Context(), state.ExecutableTypeTemplate, id)
		require.ErrorAs(t, err, &missing)
	}
	var missing state.MissingResource
	_, err := s.UpdateDefinition(t.Context(), "unknown", state.DefinitionUpdate{Definition: state.Definition{Alias: "x"}, Set: state.Columns{"alias"}})
	require.ErrorAs(t, err, &missing)
	require.ErrorAs(t, s.DeleteDefinition(t.Context(), "unknown"), &missing)
}

func TestUnstorableValuesAreMalformed(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for name, d := range map[string]state.Definition{
		"NUL in a text":          {DefinitionID: "1", Alias: "a\x00", Image: "i"},
		"NUL in the environment": {DefinitionID: "1", Alias: "a", Image: "i", Env: state.EnvList{{Name: "A", Value: "\x00"}}},
		"broken UTF-8":           {DefinitionID: "1", Alias: "a\xff", Image: "i"},
		"a huge number":          {DefinitionID: "1", Alias: "a", Image: "i", Memory: new(int64(1 << 40))},
		"a huge port":            {DefinitionID: "1", Alias: "a", Image: "i", Ports: []int64{1 << 40}},
		"an alias too long":      {DefinitionID: "1", Alias: incompressible(1 << 20), Image: "i"},
	} {
		var malformed state.MalformedInput
		require.ErrorAs(t, s.CreateDefinition(t.Context(), d), &malformed, name)
		assert.Zero(t, ask[int](t, s, `SELECT count(*) FROM task_def`), name)
	}
}

func TestADefinitionWithALiveRunIsNotDeleted(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	d := fullDefinition("d")
	require.NoError(t, s.CreateDefinition(t.Context(), d))
	s.exec(t, `INSERT INTO task (run_id, definition_id, status) VALUES ('r', $1, 'RUNNING'), ('s', $1, 'STOPPED')`, d.DefinitionID)
	var conflict state.ConflictingResource
	require.ErrorAs(t, s.DeleteDefinition(t.Context(), d.DefinitionID), &conflict)
	s.exec(t, `UPDATE task SET status = 'STOPPED'`)
	require.NoError(t, s.DeleteDefinition(t.Context(), d.DefinitionID))
	var missing state.MissingResource
	_, err := s.GetDefinition(t.Context(), d.DefinitionID)
	require.ErrorAs(t, err, &missing)
	assert.Zero(t, ask[int](t, s, `SELECT (SELECT count(*) FROM task_def_ports) + (SELECT count(*) FROM task_def_tags)`))
}

func TestGroupsAndTagsAreListedInPages(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for i, group := range []string{"b", "a", "b", "", "a_c", "abc"} {
		id := string(rune('0' + i))
		require.NoError(t, s.CreateDefinition(t.Context(), state.Definition{
			DefinitionID: id, Alias: id, Image: "i", GroupName: group, Tags: []string{"tag " + group},
		}))
	}
	groups, err := s.ListGroups(t.Context(), 10, 0, "")
	require.NoError(t, err)
	assert.Equal(t, state.NameList{Total: 4, Names: []string{"a", "a_c", "abc", "b"}}, groups)
	groups, err = s.ListGroups(t.Context(), 1, 1, "a")
	require.NoError(t, err)
	assert.Equal(t, state.NameList{Total: 3, Names: []string{"a_c"}}, groups)
	groups, err = s.ListGroups(t.Context(), 10, 0, "_")
	require.NoError(t, err)
	assert.Equal(t, state.NameList{Total: 1, Names: []string{"a_c"}}, groups)
	tags, err := s.ListTags(t.Context(), 10, 0, "tag b")
	require.NoError(t, err)
	assert.Equal(t, state.NameList{Total: 1, Names: []string{"tag b"}}, tags)
	tags, err = s.ListTags(t.Context(), 0, 0, "")
	require.NoError(t, err)
	assert.Equal(t, state.NameList{Total: 5, Names: []string{}}, tags)
	require.NoError(t, s.DeleteDefinition(t.Context(), "1"))
	tags, err = s.ListTags(t.Context(), 1, 0, "tag a")
	require.NoError(t, err)
	assert.Equal(t, state.NameList{Total: 2, Names: []string{"tag a_c"}}, tags, "a tag goes with its last definition")
	var malformed state.MalformedInput
	_, err = s.ListTags(t.Context(), 10, 0, "\x00")
	require.ErrorAs(t, err, &malformed)
	_, err = s.ListTags(t.Context(), -1, 0, "")
	require.ErrorAs(t, err, &malformed)
}

func TestDefinitionsThatShareNewTagsCanBeMadeAtOnce(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var wait sync.WaitGroup
	for i := range 20 {
		wait.Go(func() {
			d := fullDefinition("d" + string(rune('a'+i)))
			d.Tags = []string{"x", "y", "z"}
			if i%2 == 0 {
				d.Tags = []string{"z", "y", "x"}
			}
			assert.NoError(t, s.CreateDefinition(t.Context(), d))
		})
	}
	wait.Wait()
	assert.Equal(t, 3, ask[int](t, s, `SELECT count(*) FROM tags`))
}
