package flotilla_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The tests of this file check the hashes of runs (ara.md, section 7), through HTTP and a real Postgres.

const executeEmpty = "/api/v6/task/def-empty/execute"

// launched runs a definition and returns the command hash of the run, or "" if it has none. It checks the hash against
// the one that Postgres computes.
func (a *testAPI) launched(t testing.TB, path string, body map[string]any) string {
	t.Helper()
	if body["run_tags"] == nil && body["owner_id"] == nil {
		body["run_tags"] = map[string]any{"owner_id": "ann"}
	}
	raw, err := json.Marshal(body)
	require.NoError(t, err)
	run := a.ok(t, http.MethodPut, path, string(raw))
	var agrees bool
	var stored *string
	err = a.db.QueryRow(`SELECT command_hash, command_hash IS NOT DISTINCT FROM md5(convert_to(command, 'UTF8')) FROM task WHERE run_id = $1`,
		run["run_id"]).Scan(&stored, &agrees)
	require.NoError(t, err)
	assert.True(t, agrees, "command_hash is md5(command), or both are NULL")
	hash, _ := run["command_hash"].(string)
	if stored == nil {
		assert.NotContains(t, run, "command_hash")
		assert.NotContains(t, run, "command")
		return ""
	}
	assert.Equal(t, *stored, hash)
	return hash
}

func TestTheHashIdentifiesTheCommand(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	run := func(t *testing.T, fields map[string]any) string {
		t.Helper()
		return a.launched(t, executeEmpty, fields)
	}
	for name, c := range map[string]struct {
		one, other map[string]any
		same       bool
	}{
		"same description, different commands": {
			map[string]any{"description": "daily", "command": "process --date 2025-01-01"},
			map[string]any{"description": "daily", "command": "process --date 2025-01-02"}, false,
		},
		"same command, different descriptions": {
			map[string]any{"description": "daily", "command": "process"}, map[string]any{"description": "weekly", "command": "process"}, true,
		},
		"a hash that the client sent is ignored": {
			map[string]any{"command": "process", "command_hash": "0123456789abcdef0123456789abcdef"}, map[string]any{"command": "process"}, true,
		},
		"blanks count": {map[string]any{"command": "process "}, map[string]any{"command": "process"}, false},
		"sizes and environment do not": {
			map[string]any{"command": "process", "memory": 900, "env": []any{map[string]any{"name": "A", "value": "1"}}},
			map[string]any{"command": "process"}, true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, other := run(t, c.one), run(t, c.other)
			assert.NotEmpty(t, one)
			assert.Equal(t, c.same, one == other)
		})
	}
}

func TestCommandsAreHashedByTheirBytes(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	for name, command := range map[string]string{
		"unicode":         "echo 'héllo ✓ 日本語 🚀'",
		"several lines":   "set -e\necho one\n\techo \"two\"\r\n\n",
		"quotes":          `echo "\"\\ \u00e9 $(date)" 'x'`,
		"markup":          "echo '<a href=\"x\">&amp;</a>'",
		"line separators": "echo \u2028\u2029",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := a.launched(t, executeEmpty, map[string]any{"command": command})
			assert.NotEmpty(t, run)
			var stored string
			require.NoError(t, a.db.QueryRow(`SELECT command FROM task WHERE command_hash = $1`, run).Scan(&stored))
			assert.Equal(t, command, stored)
		})
	}
}

func TestARunWithoutACommandHasNoHash(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	for name, fields := range map[string]map[string]any{
		"none":                      {},
		"null":                      {"command": nil},
		"empty":                     {"command": ""},
		"empty with a hash":         {"command": "", "command_hash": "0123456789abcdef0123456789abcdef"},
		"none with a hash":          {"command_hash": "0123456789abcdef0123456789abcdef"},
		"none, with a description":  {"description": "the description is no fallback"},
		"Spark without entry point": {"engine": "eks-spark", "spark_extension": map[string]any{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Empty(t, a.launched(t, executeEmpty, fields))
		})
	}
	assert.Empty(t, a.launched(t, "/api/v6/task/def-old/execute", map[string]any{}), "a definition with an empty command")
}

func TestTheDefinitionsCommandIsHashedIfTheRequestHasNone(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	own := a.launched(t, "/api/v6/task/def-full/execute", map[string]any{})
	assert.Equal(t, own, a.launched(t, "/api/v6/task/def-full/execute", map[string]any{"command": ""}))
	assert.Equal(t, own, a.launched(t, executeEmpty, map[string]any{"command": "echo from the definition"}))
	assert.NotEqual(t, own, a.launched(t, "/api/v6/task/def-full/execute", map[string]any{"command": "another"}))
	for _, path := range []string{"/api/v1/task/def-full/execute", "/api/v6/task/alias/team%2Ffull%20job/execute"} {
		assert.Equal(t, own, a.launched(t, path, map[string]any{}), path)
	}
	v2 := map[string]any{"run_tags": map[string]any{"owner_email": "a", "team_name": "b"}, "command": "not taken"}
	assert.Equal(t, own, a.launched(t, "/api/v2/task/def-full/execute", v2))
}

func TestTheRenderedCommandOfATemplateIsHashed(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	render := func(payload map[string]any) string {
		return a.launched(t, "/api/v7/template/tpl-full-2/execute", map[string]any{"owner_id": "ann", "template_payload": payload})
	}
	first := render(map[string]any{"name": "one"})
	assert.Equal(t, first, render(map[string]any{"name": "one", "count": 1000000}), "the default is the same number")
	assert.NotEqual(t, first, render(map[string]any{"name": "two"}))
	assert.Equal(t, first, a.launched(t, executeEmpty, map[string]any{"command": "echo ONE 1000000"}))
	given := a.launched(t, "/api/v7/template/tpl-full-2/execute", map[string]any{
		"owner_id": "ann", "command": "of the request", "template_payload": map[string]any{"name": "one"},
	})
	assert.NotEqual(t, first, given, "a command of the request goes before")
}

func TestASparkRunIsHashedByItsSubmitLine(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	spark := func(change func(driver map[string]any)) string {
		driver := map[string]any{"entry_point": "s3://x/job.py", "entry_point_arguments": []any{"--date", "2025-01-01"}, "class": "Main"}
		change(driver)
		return a.launched(t, executeEmpty, map[string]any{
			"engine": "eks-spark", "description": "spark", "spark_extension": map[string]any{"spark_submit_job_driver": driver},
		})
	}
	same := spark(func(map[string]any) {})
	assert.NotEmpty(t, same)
	assert.Equal(t, same, spark(func(d map[string]any) {
		d["spark_submit_conf"] = []any{map[string]any{"name": "spark.executor.memory", "value": "9g"}}
		d["num_executors"] = 9
	}), "what ARA may change is not the identity")
	assert.NotEqual(t, same, spark(func(d map[string]any) { d["entry_point_arguments"] = []any{"--date", "2025-01-02"} }))
	assert.NotEqual(t, same, spark(func(d map[string]any) { d["entry_point_arguments"] = []any{"--date 2025-01-01"} }), "arguments are quoted")
	commanded := a.launched(t, executeEmpty, map[string]any{
		"engine": "eks-spark", "command": "run it", "spark_extension": map[string]any{"spark_submit_job_driver": map[string]any{"entry_point": "x"}},
	})
	assert.Equal(t, a.launched(t, executeEmpty, map[string]any{"command": "run it"}), commanded, "a command goes before")
}

func TestTheSameIdempotenceKeyReturnsTheSameRun(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	a.clock.now = a.databaseTime(t)
	body := `{"run_tags": {"owner_id": "ann"}, "idempotence_key": "the key"}`
	ids := make([]any, 8)
	var together sync.WaitGroup
	for i := range ids {
		together.Go(func() { ids[i] = a.ok(t, http.MethodPut, executeEmpty, body)["run_id"] })
	}
	together.Wait()
	for _, id := range ids {
		assert.Equal(t, ids[0], id)
	}
	assert.Equal(t, ids[0], a.ok(t, http.MethodPut, "/api/v6/task/def-full/execute", body)["run_id"], "whatever the definition")
	a.ok(t, http.MethodDelete, fmt.Sprintf("/api/v6/task/x/history/%v", ids[0]), "")
	next := a.ok(t, http.MethodPut, executeEmpty, body)["run_id"]
	assert.NotEqual(t, ids[0], next, "a failed run does not count")
	assert.NotEqual(t, a.ok(t, http.MethodPut, executeEmpty, `{"run_tags": {"owner_id": "ann"}, "idempotence_key": ""}`)["run_id"],
		a.ok(t, http.MethodPut, executeEmpty, `{"run_tags": {"owner_id": "ann"}, "idempotence_key": ""}`)["run_id"], "an empty key is none")
}
