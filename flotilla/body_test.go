package flotilla_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/flotilla"
)

func TestUnreadableBodiesAreRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	const execute, definition, worker = "/api/v6/task/def-empty/execute", "/api/v6/task/def-empty", "/api/v5/worker"
	for name, c := range map[string]struct{ path, body, want string }{
		"no body":                       {definition, "", "no body"},
		"blanks":                        {definition, " \n", "no body"},
		"half an object":                {definition, `{"memory":`, "not valid JSON"},
		"something behind":              {definition, `{} {}`, "not valid JSON"},
		"a comment":                     {definition, `{} // x`, "not valid JSON"},
		"null":                          {definition, ` null `, "an object is needed"},
		"an array for an object":        {definition, `[]`, "must be an object, not an array"},
		"a number for an object":        {definition, `7`, "must be an object, not a number"},
		"an object for an array":        {worker, `{}`, "must be an array, not an object"},
		"null for an array":             {worker, `null`, "an array is needed"},
		"a text for a number":           {definition, `{"memory": "512"}`, "field memory must be a whole number, not a string"},
		"a fraction for a whole number": {definition, `{"memory": 1.5}`, "field memory must be a whole number, not the number 1.5"},
		"a number beyond all":           {definition, `{"memory": 99999999999999999999}`, "field memory"},
		"a number beyond the column":    {definition, `{"memory": 2147483648}`, "memory"},
		"a negative number":             {definition, `{"cpu": -1}`, "cpu"},
		"a text for a bool":             {definition, `{"requires_docker": "yes"}`, "field requires_docker must be true or false, not a string"},
		"a number for a text":           {definition, `{"image": 5}`, "field image must be a string, not a number"},
		"an object for a list":          {definition, `{"env": {}}`, "field env must be an array, not an object"},
		"a number in a list of objects": {definition, `{"env": [{"name": 1}]}`, "env.name"},
		"a text in a list of numbers":   {definition, `{"ports": ["x"]}`, "field ports"},
		"a port beyond all":             {definition, `{"ports": [70000]}`, "ports"},
		"a NUL":                         {definition, `{"image": "a\u0000b"}`, "NUL"},
		"a NUL in a key":                {definition, `{"\u0000": 1}`, "NUL"},
		"a NUL in an unknown member":    {definition, `{"x": {"y": ["\u0000"]}}`, "NUL"},
		"deep nesting":                  {definition, `{"x": ` + strings.Repeat("[", 300) + strings.Repeat("]", 300) + `}`, "nested"},
		"deeper nesting":                {definition, `{"x": ` + strings.Repeat("[", 100_000), "not valid JSON"},
		"a text for a run's memory":     {execute, `{"run_tags": {"owner_id": "a"}, "memory": "512"}`, "the field memory must"},
		"a number for a run's command":  {execute, `{"run_tags": {"owner_id": "a"}, "COMMAND": 5}`, "the field command must"},
		"a text for a Spark list":       {execute, `{"run_tags": {"owner_id": "a"}, "spark_extension": {"executors": "x"}}`, "the field spark_extension.executors must"},
		"a number for the owner":        {execute, `{"run_tags": {"owner_id": 5}}`, "run_tags.owner_id"},
		"a text for the tags":           {execute, `{"run_tags": "ann"}`, "run_tags"},
		"a number in labels":            {execute, `{"run_tags": {"owner_id": "a"}, "labels": {"a": 1}}`, "labels"},
		"a text for Spark":              {execute, `{"run_tags": {"owner_id": "a"}, "spark_extension": "x"}`, "must be an object"},
		"a text for Spark's executors":  {execute, `{"run_tags": {"owner_id": "a"}, "spark_extension": {"spark_submit_job_driver": {"num_executors": "x"}}}`, "num_executors"},
		"a NUL within Spark":            {execute, `{"run_tags": {"owner_id": "a"}, "spark_extension": {"new": "\u0000"}}`, "NUL"},
		"no Spark for a Spark run":      {execute, `{"run_tags": {"owner_id": "a"}, "engine": "eks-spark"}`, "spark_extension"},
		"an unknown engine":             {execute, `{"run_tags": {"owner_id": "a"}, "engine": "nomad"}`, "engine"},
		"an unknown lifecycle":          {execute, `{"run_tags": {"owner_id": "a"}, "node_lifecycle": "dedicated"}`, "node_lifecycle"},
		"a label key that is none":      {execute, `{"run_tags": {"owner_id": "a"}, "labels": {"a b": "c"}}`, "label"},
		"a command too long for exec":   {execute, `{"run_tags": {"owner_id": "a"}, "command": "` + strings.Repeat("x", 131_072) + `"}`, "command"},
		"an environment too large":      {execute, `{"run_tags": {"owner_id": "a"}, "env": [` + strings.Repeat(`{"name": "A", "value": "`+strings.Repeat("x", 100_000)+`"},`, 11) + `{"name": "B", "value": ""}]}`, "env"},
		"a deadline of nothing":         {execute, `{"run_tags": {"owner_id": "a"}, "active_deadline_seconds": 0}`, "active_deadline_seconds"},
		"a type of worker that is none": {worker, `[{"worker_type": "x", "count_per_instance": 1}]`, "worker_type"},
		"no count":                      {worker, `[{"worker_type": "submit"}]`, "count_per_instance"},
		"a count that is null":          {worker, `[{"worker_type": "submit", "count_per_instance": null}]`, "count_per_instance"},
		"a type of worker twice":        {worker, `[{"worker_type": "submit", "count_per_instance": 1}, {"worker_type": "submit", "count_per_instance": 2}]`, "once"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := a.call(t, http.MethodPut, c.path, c.body)
			assert.Equal(t, http.StatusBadRequest, got.status, "%s", got.body)
			assert.Contains(t, got.failure(t), c.want)
		})
	}
}

func TestBodiesOverTenMebibytesAreRefused(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *flotilla.RouterConfig) {
		c.HTTP.ReadTimeout, c.HTTP.WriteTimeout = 4*time.Minute, 5*time.Minute // for a busy machine
	})
	a.seed(t)
	large := `{"image": "` + strings.Repeat("x", 10<<20) + `"}`
	got := a.call(t, http.MethodPut, "/api/v6/task/def-empty", large)
	assert.Equal(t, http.StatusRequestEntityTooLarge, got.status)
	assert.Contains(t, got.failure(t), "10 MiB")
	t.Run("also where the length is not announced", func(t *testing.T) {
		r := a.request(t, http.MethodPut, "/api/v6/task/def-empty", large)
		r.ContentLength = -1
		assert.Equal(t, http.StatusRequestEntityTooLarge, a.send(t, r).status)
	})
	t.Run("and one of exactly that size is read", func(t *testing.T) {
		blank := `{` + strings.Repeat(" ", 10<<20-2) + `}`
		assert.Equal(t, http.StatusOK, a.call(t, http.MethodPut, "/api/v6/task/def-empty", blank).status)
	})
}

func TestKeysMatchRegardlessOfCaseAtEveryLevel(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	run := a.ok(t, http.MethodPut, "/api/v6/task/def-empty/execute", `{
		"RUN_TAGS": {"Owner_ID": "ann"}, "Env": [{"NAME": "A", "VALUE": "1"}], "Memory": 600,
		"SPARK_extension": {"Spark_Submit_Job_Driver": {"ENTRY_POINT": "x", "Spark_Submit_Conf": [{"NAME": "n", "Value": "v"}]}},
		"labels": {"Case": "Kept"}}`)
	assert.Equal(t, "ann", run["user"])
	assert.Contains(t, run["env"], map[string]any{"name": "A", "value": "1"})
	assert.EqualValues(t, 600, run["memory"])
	assert.Equal(t, map[string]any{"spark_submit_job_driver": map[string]any{
		"entry_point": "x", "spark_submit_conf": []any{map[string]any{"name": "n", "value": "v"}},
	}}, run["spark_extension"])
	assert.Equal(t, map[string]any{"Case": "Kept"}, run["labels"])
}

func TestV1AndV2IgnoreUnknownMembersOfAnyShape(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	const junk = `"memory": "much", "command": 5, "engine": 7, "run_tags": "x", "labels": [], "node_lifecycle": {}, "gpu": -1,
		"spark_extension": 1, "command_hash": [], "active_deadline_seconds": -5, "nul": "\u0000"`
	t.Run("v1", func(t *testing.T) {
		run := a.ok(t, http.MethodPut, "/api/v1/task/def-empty/execute", `{`+junk+`}`)
		assert.Equal(t, "v1-unknown", run["user"])
		assert.NotContains(t, run, "memory")
		assert.NotContains(t, run, "command")
	})
	t.Run("v1 without a body", func(t *testing.T) {
		assert.Equal(t, "QUEUED", a.ok(t, http.MethodPut, "/api/v1/task/def-empty/execute", "")["status"])
	})
	t.Run("v1 looks at what it takes", func(t *testing.T) {
		for _, body := range []string{`{"cluster": 5}`, `{"env": "x"}`, `{"tier": []}`, `{"tier": "\u0000"}`, `{"env": [{"name": "A", "value": "\u0000"}]}`, `{`, `[]`} {
			assert.Equal(t, http.StatusBadRequest, a.call(t, http.MethodPut, "/api/v1/task/def-empty/execute", body).status, body)
		}
	})
	t.Run("v2", func(t *testing.T) {
		run := a.ok(t, http.MethodPut, "/api/v2/task/def-empty/execute", `{"memory": "much", "command": 5, "cluster": 3, "cpu": -1,
			"nul": "\u0000", "run_tags": {"owner_id": 7, "owner_email": "ann@example.com", "team_name": "a"}}`)
		assert.Equal(t, "ann@example.com", run["user"])
		assert.NotContains(t, run, "memory")
	})
	t.Run("v2 looks at what it takes", func(t *testing.T) {
		for _, rest := range []string{`"labels": {"a": 1}`, `"engine": 5`, `"description": "\u0000"`, `"spark_extension": {"x": "\u0000"}`, `"engine": "nomad"`} {
			body := `{"run_tags": {"owner_email": "a", "team_name": "b"}, ` + rest + `}`
			assert.Equal(t, http.StatusBadRequest, a.call(t, http.MethodPut, "/api/v2/task/def-empty/execute", body).status, body)
		}
	})
}

func TestAnEscapedBackslashBeforeU0000IsKept(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	run := a.ok(t, http.MethodPut, "/api/v6/task/def-empty/execute", `{"run_tags": {"owner_id": "a"}, "command": "printf '\\u0000\\\\u0000'"}`)
	require.Equal(t, `printf '\u0000\\u0000'`, run["command"])
}
