package services

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

func salesTemplate() state.Template {
	return state.Template{
		TemplateName: "sales", Image: "busybox", CommandTemplate: "load {{.table}} --rows {{.rows}} --deep {{.o.x}}{{.o.y}}",
		Schema: state.Object{"type": "object", "required": []any{"table"}, "properties": map[string]any{
			"table": map[string]any{"type": "string"}, "rows": map[string]any{"type": "integer"},
		}},
		Defaults: state.Object{"rows": json.Number("1000000"), "o": map[string]any{"x": "X", "y": "Y"}},
		Env:      state.EnvList{{Name: "T", Value: "1"}, {Name: "FLOTILLA_RUN_ID", Value: "x"}},
	}
}

func (b *bench) template(t *testing.T, change func(*state.Template)) state.Template {
	t.Helper()
	tpl := salesTemplate()
	if change != nil {
		change(&tpl)
	}
	stored, _, err := b.templates.Create(t.Context(), tpl)
	require.NoError(t, err)
	return stored
}

func TestCreateTemplate(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first, created, err := b.templates.Create(t.Context(), salesTemplate())
	require.NoError(t, err)
	assert.True(t, created)
	assert.Regexp(t, `^tpl-[0-9a-f-]{32}$`, first.TemplateID)
	assert.EqualValues(t, 1, first.Version)
	assert.EqualValues(t, 512, *first.Memory, "the minimum")
	assert.EqualValues(t, 256, *first.CPU)
	assert.True(t, *first.AdaptiveResourceAllocation)
	assert.Equal(t, state.EnvList{{Name: "T", Value: "1"}}, first.Env)

	same, created, err := b.templates.Create(t.Context(), salesTemplate())
	require.NoError(t, err)
	assert.False(t, created)
	assert.Equal(t, first.TemplateID, same.TemplateID)

	second := b.template(t, func(tpl *state.Template) { tpl.CommandTemplate = "echo two" })
	assert.EqualValues(t, 2, second.Version)
	assert.Equal(t, 2, strings.Count(b.log.String(), "template_created"))
}

func TestMalformedTemplates(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	cases := map[string]struct {
		change func(*state.Template)
		want   []string
	}{
		"everything is missing":     {func(t *state.Template) { *t = state.Template{} }, []string{"template_name, schema, command_template and image"}},
		"a schema that is none":     {func(t *state.Template) { t.Schema = state.Object{"type": 7} }, []string{"schema does not compile"}},
		"a template that is none":   {func(t *state.Template) { t.CommandTemplate = "{{.x" }, []string{"command_template does not compile"}},
		"a function that is not":    {func(t *state.Template) { t.CommandTemplate = `{{env "HOME"}}` }, []string{"env"}},
		"both":                      {func(t *state.Template) { t.Schema, t.CommandTemplate = state.Object{"type": 7}, "{{" }, []string{"schema", "command_template"}},
		"NUL in defaults":           {func(t *state.Template) { t.Defaults = state.Object{"a": []any{map[string]any{"b": "\x00"}}} }, []string{"NUL"}},
		"NUL in a schema's key":     {func(t *state.Template) { t.Schema = state.Object{"\x00": 1} }, []string{"NUL"}},
		"a template of 1 MB":        {func(t *state.Template) { t.CommandTemplate = strings.Repeat("x", 1<<20) }, []string{"command_template"}},
		"a name of 1 MB":            {func(t *state.Template) { t.TemplateName = strings.Repeat("x", 1<<20) }, []string{"template_name"}},
		"negative memory":           {func(t *state.Template) { t.Memory = new(int64(-1)) }, []string{"memory"}},
		"a port that there is not":  {func(t *state.Template) { t.Ports = state.Ports{70_000} }, []string{"ports[0]"}},
		"a variable without a name": {func(t *state.Template) { t.Env = state.EnvList{{}} }, []string{"env[0]"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tpl := salesTemplate()
			c.change(&tpl)
			_, _, err := b.templates.Create(t.Context(), tpl)
			var malformed state.MalformedInput
			require.ErrorAs(t, err, &malformed)
			for _, want := range c.want {
				assert.Contains(t, malformed.Message, want)
			}
		})
	}
}

func templateRequest(payload state.Object, common state.ExecutionRequestCommon) *state.TemplateExecutionRequest {
	return &state.TemplateExecutionRequest{ExecutionRequestCommon: &common, TemplatePayload: payload}
}

func TestExecuteTemplate(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tpl := b.template(t, nil)
	payload := state.Object{"table": "orders", "o": map[string]any{"y": "Z"}}
	created, err := b.templates.Execute(t.Context(), tpl.TemplateID, templateRequest(payload, state.ExecutionRequestCommon{
		OwnerID: "ada", Engine: new("eks-spark"), CommandHash: new("poison"), ClusterName: testCluster,
	}))
	require.NoError(t, err)
	run := b.status(t, created.Run.RunID)
	assert.Equal(t, "load orders --rows 1000000 --deep XZ", *run.Command)
	assert.Equal(t, CommandHash("load orders --rows 1000000 --deep XZ"), *run.CommandHash)
	assert.Equal(t, state.EKSEngine, run.Engine, "always")
	for _, id := range []string{run.DefinitionID, run.Alias, *run.ExecutableID, run.Description} {
		assert.Equal(t, tpl.TemplateID, id)
	}
	assert.Equal(t, state.ExecutableTypeTemplate, run.ExecutableType)
	assert.Equal(t, "template_group_name", run.GroupName)
	assert.Equal(t, state.Object{"template_payload": map[string]any{
		"table": "orders", "rows": json.Number("1000000"), "o": map[string]any{"x": "X", "y": "Z"},
	}}, run.RequestCustom, "as merged")

	own, err := b.templates.Execute(t.Context(), tpl.TemplateID, templateRequest(payload, state.ExecutionRequestCommon{Command: new("mine")}))
	require.NoError(t, err)
	assert.Equal(t, "mine", *own.Run.Command, "the request's command comes first")
}

func TestExecuteTemplateDry(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tpl := b.template(t, nil)
	req := templateRequest(state.Object{"table": "t"}, state.ExecutionRequestCommon{OwnerID: "ada"})
	req.DryRun = true
	created, err := b.templates.Execute(t.Context(), tpl.TemplateID, req)
	require.NoError(t, err)
	assert.Equal(t, "load t --rows 1000000 --deep XY", *created.Run.Command)
	assert.Equal(t, state.StatusQueued, created.Run.Status)
	assert.Equal(t, testCluster, created.Run.ClusterName)
	_, err = b.executions.Get(t.Context(), created.Run.RunID)
	var missing state.MissingResource
	require.ErrorAs(t, err, &missing, "nothing is stored")
	assert.Zero(t, b.waker.woken())
}

func TestExecuteTemplateMalformed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tpl := b.template(t, nil)
	endless := b.template(t, func(tpl *state.Template) {
		tpl.TemplateName, tpl.CommandTemplate = "endless", "{{range until 1000000000}}x{{end}}"
	})
	type common = state.ExecutionRequestCommon
	cases := map[string]struct {
		id      string
		payload state.Object
		common  common
		want    []string
	}{
		"every violation is listed":    {tpl.TemplateID, state.Object{"rows": "many"}, common{}, []string{"table", "/rows"}},
		"a hole that nothing fills":    {tpl.TemplateID, state.Object{"table": "t", "o": nil}, common{}, []string{"cannot be rendered"}},
		"a template that takes all":    {endless.TemplateID, state.Object{"table": "t"}, common{}, []string{"too large for a command"}},
		"NUL in the payload":           {tpl.TemplateID, state.Object{"table": "a\x00b"}, common{}, []string{"NUL"}},
		"an unknown cluster":           {tpl.TemplateID, state.Object{"table": "t"}, common{ClusterName: "mars", ClusterRequired: true}, []string{"mars"}},
		"a lifecycle that there isn't": {tpl.TemplateID, state.Object{"table": "t"}, common{NodeLifecycle: new("x")}, []string{"node_lifecycle"}},
		"a command that is too long":   {tpl.TemplateID, state.Object{"table": strings.Repeat("x", 131_072)}, common{}, []string{"longer than"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := b.templates.Execute(t.Context(), c.id, templateRequest(c.payload, c.common))
			var malformed state.MalformedInput
			require.ErrorAs(t, err, &malformed)
			for _, want := range c.want {
				assert.Contains(t, malformed.Message, want)
			}
		})
	}
}

func TestNumbersOfAPayloadStayAsTheyWereSent(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	object := func(text string) (o state.Object) {
		require.NoError(t, json.Unmarshal([]byte(text), &o))
		return o
	}
	tpl := b.template(t, func(tpl *state.Template) {
		tpl.Schema = object(`{"properties": {"big": {"type": "integer", "maximum": 12345678901234567890}, "price": {"type": "number"}}}`)
		tpl.CommandTemplate = "{{.big}} {{.price}} {{.huge}} {{.default}} {{add .n 1}}"
		tpl.Defaults = object(`{"default": 2.50, "price": 9, "n": 41}`)
	})
	_, created, err := b.templates.Create(t.Context(), func() state.Template {
		again := salesTemplate()
		again.Schema, again.CommandTemplate = tpl.Schema, tpl.CommandTemplate
		again.Defaults = object(`{"default": 2.5, "price": 0.9e1, "n": 41}`)
		return again
	}())
	require.NoError(t, err)
	assert.False(t, created, "numbers are compared by value")

	payload := object(`{"big": 12345678901234567890, "price": 1.10, "huge": 1e400}`)
	executed, err := b.templates.Execute(t.Context(), tpl.TemplateID, templateRequest(payload, state.ExecutionRequestCommon{}))
	require.NoError(t, err)
	assert.Equal(t, "12345678901234567890 1.10 1e400 2.50 42", *executed.Run.Command)
	var same bool
	require.NoError(t, b.db.QueryRowContext(t.Context(), `
		SELECT execution_request_custom = '{"template_payload": {"big": 12345678901234567890, "price": 1.10, "huge": 1e400, "default": 2.50, "n": 41}}'
			AND execution_request_custom #>> '{template_payload,price}' = '1.10'
		FROM task WHERE run_id = $1`, executed.Run.RunID).Scan(&same))
	assert.True(t, same)

	for _, wrong := range []string{`{"big": 12345678901234567891}`, `{"price": 1e100000}`} {
		_, err = b.templates.Execute(t.Context(), tpl.TemplateID, templateRequest(object(wrong), state.ExecutionRequestCommon{}))
		require.ErrorAs(t, err, new(state.MalformedInput), wrong)
	}
}

func TestTemplateVersionsAndHistories(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	one := b.template(t, nil)
	two := b.template(t, func(tpl *state.Template) { tpl.CommandTemplate = "echo two" })
	other := b.template(t, func(tpl *state.Template) { tpl.TemplateName = "sales-other" })
	req := templateRequest(state.Object{"table": "t"}, state.ExecutionRequestCommon{})
	for version, want := range map[string]string{"1": one.TemplateID, "2": two.TemplateID, "latest": two.TemplateID, "": two.TemplateID, "v1": two.TemplateID} {
		created, err := b.templates.ExecuteVersion(t.Context(), "sales", version, req)
		require.NoError(t, err, version)
		assert.Equal(t, want, *created.Run.ExecutableID, version)
	}
	_, err := b.templates.Execute(t.Context(), other.TemplateID, req)
	require.NoError(t, err)
	var missing state.MissingResource
	for _, version := range []string{"0", "3", "-1", "4294967296", "99999999999999999999"} {
		_, err := b.templates.ExecuteVersion(t.Context(), "sales", version, req)
		require.ErrorAs(t, err, &missing, version)
	}
	_, err = b.templates.ExecuteVersion(t.Context(), "none", "latest", req)
	require.ErrorAs(t, err, &missing)
	_, err = b.templates.Execute(t.Context(), "none", req)
	require.ErrorAs(t, err, &missing)

	total := func(list state.RunList, err error) int {
		t.Helper()
		require.NoError(t, err)
		return list.Total
	}
	page := state.ListOptions{Limit: 100}
	assert.Equal(t, 1, total(b.templates.History(t.Context(), one.TemplateID, page)))
	assert.Equal(t, 4, total(b.templates.History(t.Context(), two.TemplateID, page)))
	named, versions, err := b.templates.HistoryByName(t.Context(), "sales", page)
	assert.Equal(t, 5, total(named, err), "all versions, and no other name")
	assert.ElementsMatch(t, []string{one.TemplateID, two.TemplateID}, versions)
	assert.Equal(t, 4, total(b.executions.ListForExecutable(t.Context(), two.TemplateID, page)), "task routes serve templates, too")
	_, err = b.templates.History(t.Context(), "none", page)
	require.ErrorAs(t, err, &missing)
	_, _, err = b.templates.HistoryByName(t.Context(), "none", page)
	require.ErrorAs(t, err, &missing)
}
