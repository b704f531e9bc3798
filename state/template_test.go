package state_test

import (
	"encoding/json"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

// makeTemplate returns a template of that name with every field set.
func makeTemplate(name string) state.Template {
	return state.Template{
		TemplateID: state.NewTemplateID(), TemplateName: name,
		Schema:          state.Object{"type": "object", "properties": map[string]any{"n": map[string]any{"type": "number"}}},
		CommandTemplate: "echo {{.n}}", Defaults: state.Object{"n": json.Number("1")}, AvatarURI: "http://example.com/a.png",
		Image: "image:1", Memory: new(int64(1024)), CPU: new(int64(512)), GPU: new(int64(1)),
		EphemeralStorage: new(int64(5)), Env: state.EnvList{{Name: "A", Value: "b"}}, Privileged: new(false),
		AdaptiveResourceAllocation: new(true), Ports: state.Ports{80}, Tags: state.Strings{"t"},
	}
}

func TestATemplateIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	want := makeTemplate("full")
	created, did, err := s.CreateTemplate(t.Context(), want)
	require.NoError(t, err)
	assert.True(t, did)
	want.Version = 1
	assert.Equal(t, want, created)
	got, err := s.GetTemplate(t.Context(), want.TemplateID)
	require.NoError(t, err)
	assert.Equal(t, want, got)
	executable, err := s.GetExecutable(t.Context(), state.ExecutableTypeTemplate, want.TemplateID)
	require.NoError(t, err)
	assert.Equal(t, want, executable)
}

func TestATemplateGetsAVersionWhenItDiffers(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for name, change := range map[string]func(*state.Template){
		"schema":   func(x *state.Template) { x.Schema = state.Object{"type": "array"} },
		"command":  func(x *state.Template) { x.CommandTemplate = "ls" },
		"defaults": func(x *state.Template) { x.Defaults = state.Object{"n": json.Number("2")} },
		"avatar":   func(x *state.Template) { x.AvatarURI = "" },
		"image":    func(x *state.Template) { x.Image = "image:2" },
		"memory":   func(x *state.Template) { x.Memory = new(int64(1)) },
		"cpu":      func(x *state.Template) { x.CPU = new(int64(1)) },
		"gpu":      func(x *state.Template) { x.GPU = nil },
		"storage":  func(x *state.Template) { x.EphemeralStorage = nil },
		"env":      func(x *state.Template) { x.Env = nil },
		"ara":      func(x *state.Template) { x.AdaptiveResourceAllocation = new(false) },
		"ports":    func(x *state.Template) { x.Ports = state.Ports{81} },
		"tags":     func(x *state.Template) { x.Tags = nil },
	} {
		t.Run(name, func(t *testing.T) {
			first, did, err := s.CreateTemplate(t.Context(), makeTemplate(name))
			require.NoError(t, err)
			require.True(t, did)
			again, did, err := s.CreateTemplate(t.Context(), makeTemplate(name))
			require.NoError(t, err)
			assert.False(t, did)
			assert.Equal(t, first, again)
			changed := makeTemplate(name)
			change(&changed)
			second, did, err := s.CreateTemplate(t.Context(), changed)
			require.NoError(t, err)
			assert.True(t, did)
			assert.EqualValues(t, 2, second.Version)
			latest, err := s.GetTemplateVersion(t.Context(), name, nil)
			require.NoError(t, err)
			assert.Equal(t, second.TemplateID, latest.TemplateID)
			one, err := s.GetTemplateVersion(t.Context(), name, new(int64(1)))
			require.NoError(t, err)
			assert.Equal(t, first.TemplateID, one.TemplateID)
		})
	}
}

func TestEmptyTagsOfATemplateAreDropped(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	tagged := makeTemplate("tagged")
	tagged.Tags = state.Strings{"", "a"}
	created, isNew, err := s.CreateTemplate(t.Context(), tagged)
	require.NoError(t, err)
	assert.True(t, isNew)
	assert.Equal(t, state.Strings{"a"}, created.Tags)
	assert.JSONEq(t, `["a"]`, ask[string](t, s, `SELECT tags FROM template WHERE template_id = $1`, created.TemplateID))
	_, isNew, err = s.CreateTemplate(t.Context(), tagged)
	require.NoError(t, err)
	assert.False(t, isNew, "it differs in nothing but an empty tag")

	s.exec(t, `UPDATE template SET tags = '["", "b", ""]' WHERE template_id = $1`, created.TemplateID)
	read, err := s.GetTemplate(t.Context(), created.TemplateID)
	require.NoError(t, err)
	assert.Equal(t, state.Strings{"b"}, read.Tags, "an old client stored the others")
	list, err := s.ListTemplates(t.Context(), state.ListOptions{Limit: 10})
	require.NoError(t, err)
	assert.Equal(t, state.Strings{"b"}, list.Templates[0].Tags)
}

func TestATemplateWithoutOptionalFieldsIsTheSameTwice(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	least := state.Template{TemplateName: "least", CommandTemplate: "ls", Image: "i", Memory: new(int64(512)), CPU: new(int64(256))}
	for _, want := range []bool{true, false, false} {
		least.TemplateID = state.NewTemplateID()
		least.GPU = new(int64(0))
		_, did, err := s.CreateTemplate(t.Context(), least)
		require.NoError(t, err)
		assert.Equal(t, want, did)
	}
}

func TestTemplatesMadeAtOnceGetVersionsInARow(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var wait sync.WaitGroup
	for i := range 20 {
		wait.Go(func() {
			x := makeTemplate("raced")
			x.CommandTemplate = "echo " + string(rune('a'+i))
			_, did, err := s.CreateTemplate(t.Context(), x)
			assert.NoError(t, err)
			assert.True(t, did)
		})
	}
	wait.Wait()
	assert.Equal(t, "20 1 20", ask[string](t, s, `SELECT count(*) || ' ' || min(version) || ' ' || max(version) FROM template`))
}

func TestAnUnknownTemplateIsMissing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	_, _, err := s.CreateTemplate(t.Context(), makeTemplate("known"))
	require.NoError(t, err)
	var missing state.MissingResource
	_, err = s.GetTemplate(t.Context(), "unknown")
	require.ErrorAs(t, err, &missing)
	_, err = s.GetTemplateVersion(t.Context(), "unknown", nil)
	require.ErrorAs(t, err, &missing)
	for _, version := range []int64{2, 0, -1, 1 << 50} {
		_, err = s.GetTemplateVersion(t.Context(), "known", &version)
		require.ErrorAs(t, err, &missing)
	}
}

func TestTemplatesAreListedByTheirNewestVersion(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, name := range []string{"b", "a", "a", "a", "c"} {
		x := makeTemplate(name)
		x.CommandTemplate = "echo " + x.TemplateID
		_, _, err := s.CreateTemplate(t.Context(), x)
		require.NoError(t, err)
	}
	names := func(o state.ListOptions) (names []string, total int) {
		t.Helper()
		list, err := s.ListTemplates(t.Context(), o)
		require.NoError(t, err)
		for _, x := range list.Templates {
			names = append(names, x.TemplateName+string(rune('0'+x.Version)))
		}
		return names, list.Total
	}
	got, total := names(state.ListOptions{Limit: 10, LatestOnly: true})
	assert.Equal(t, []string{"a3", "b1", "c1"}, got)
	assert.Equal(t, 3, total)
	got, total = names(state.ListOptions{Limit: 2, Offset: 1, SortBy: "version", Order: "desc"})
	assert.Equal(t, 5, total)
	assert.Len(t, got, 2)
	got, _ = names(state.ListOptions{Limit: 10, SortBy: "version", Order: "desc", LatestOnly: true})
	assert.Equal(t, "a3", got[0])
	got, total = names(state.ListOptions{Limit: 10, Filters: map[string][]string{"template_name": {"a"}, "version": {"1", "2"}}})
	assert.ElementsMatch(t, []string{"a1", "a2"}, got, "ties are broken by the id")
	assert.Equal(t, 2, total)
}
