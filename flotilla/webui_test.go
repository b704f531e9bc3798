package flotilla_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTheOldWebUI makes the calls of the old web UI, in the order of a user that creates a task, runs it, watches it,
// runs it again and stops it.
func TestTheOldWebUI(t *testing.T) {
	t.Parallel()
	a := newAPI(t)

	created := a.ok(t, http.MethodPost, "/api/v6/task", `{
		"adaptive_resource_allocation": true, "alias": "ui job", "command": "echo hi", "cpu": 512, "env": [{"name": "A", "value": "1"}],
		"group_name": "ui", "image": "busybox", "memory": 1024, "tags": [], "require_docker": false}`)
	id := fmt.Sprint(created["definition_id"])
	t.Run("the list of tasks sends empty filters", func(t *testing.T) {
		list := a.ok(t, http.MethodGet, "/api/v6/task?alias=&group_name=&image=&limit=20&offset=0&order=asc&sort_by=alias", "")
		assert.EqualValues(t, 1, list["total"])
		assert.NotContains(t, list, "alias")
	})
	t.Run("the menus of the form", func(t *testing.T) {
		assert.Equal(t, []any{"ui"}, a.ok(t, http.MethodGet, "/api/v6/groups?limit=2000&name=u", "")["groups"])
		assert.Equal(t, []any{}, a.ok(t, http.MethodGet, "/api/v6/tags?limit=2000", "")["tags"])
		assert.Contains(t, fmt.Sprint(a.ok(t, http.MethodGet, "/api/v6/clusters", "")["clusters"]), "name:local")
	})
	assert.Equal(t, created, a.ok(t, http.MethodGet, "/api/v6/task/"+id, ""))

	launch := func(env string) (map[string]any, answer) {
		got := a.call(t, http.MethodPut, "/api/v6/task/"+id+"/execute", `{
			"cluster": "flotilla-eks-old", "cpu": 512, "memory": 1024, "engine": "eks", "node_lifecycle": "spot",
			"command": "echo hi", "env": `+env+`, "run_tags": {"OWNER_ID": "ann"}}`)
		require.Equal(t, http.StatusOK, got.status, "%s", got.body)
		return got.object(t), got
	}
	run, got := launch(`[{"name": "A", "value": "1"}]`)
	runID := fmt.Sprint(run["run_id"])
	assert.Equal(t, "QUEUED", run["status"])
	assert.Equal(t, "ann", run["user"])
	assert.Equal(t, "local", run["cluster"], "an unknown cluster is as good as none")
	assert.Contains(t, got.header.Get("Warning"), "flotilla-eks-old")

	t.Run("the run's page polls the run and its log", func(t *testing.T) {
		assert.Equal(t, runID, a.ok(t, http.MethodGet, "/api/v6/history/"+runID, "")["run_id"])
		assert.Empty(t, a.call(t, http.MethodGet, "/api/v6/"+runID+"/logs?raw_text=true", "").body, "before the start")
		page := a.ok(t, http.MethodGet, "/api/v6/"+runID+"/logs?last_seen=", "")
		assert.NotEmpty(t, page["last_seen"], "it polls without pause on an empty one")
		a.engine.write(runID, "hi\n")
		page = a.ok(t, http.MethodGet, "/api/v6/"+runID+"/logs?last_seen="+url.QueryEscape(fmt.Sprint(page["last_seen"])), "")
		assert.Equal(t, "hi\n", page["log"])
		page = a.ok(t, http.MethodGet, "/api/v6/"+runID+"/logs?last_seen="+url.QueryEscape(fmt.Sprint(page["last_seen"])), "")
		assert.Equal(t, "", page["log"])
		assert.Equal(t, "hi\n", string(a.call(t, http.MethodGet, "/api/v6/"+runID+"/logs?raw_text=true", "").body))
		assert.EqualValues(t, 0, a.ok(t, http.MethodGet, "/api/v6/"+runID+"/events", "")["total"])
	})
	t.Run("the list of runs sends empty filters", func(t *testing.T) {
		for _, path := range []string{"/api/v6/history", "/api/v6/task/" + id + "/history"} {
			list := a.ok(t, http.MethodGet, path+"?cluster_name=&env=&started_at_since=&started_at_until=&status=&limit=20&offset=0&order=desc&sort_by=started_at", "")
			assert.EqualValues(t, 1, list["total"], path)
		}
	})
	t.Run("Retry sends the old run's environment back", func(t *testing.T) {
		old := a.ok(t, http.MethodGet, "/api/v6/history/"+runID, "")
		var sent strings.Builder
		for i, v := range old["env"].([]any) {
			if i > 0 {
				sent.WriteString(", ")
			}
			entry := v.(map[string]any)
			sent.WriteString(`{"name": "` + entry["name"].(string) + `", "value": "` + entry["value"].(string) + `"}`)
		}
		again, _ := launch("[" + sent.String() + "]")
		assert.NotEqual(t, runID, again["run_id"])
		own := map[string]int{}
		for _, v := range again["env"].([]any) {
			entry := v.(map[string]any)
			own[entry["name"].(string)]++
			assert.NotEqual(t, runID, entry["value"], "what named the old run is gone")
		}
		assert.Equal(t, map[string]int{
			"FLOTILLA_SERVER_MODE": 1, "FLOTILLA_RUN_ID": 1, "AWS_ROLE_SESSION_NAME": 1, "FLOTILLA_RUN_OWNER_ID": 1, "A": 1,
		}, own)
	})
	t.Run("Stop, Update and Delete", func(t *testing.T) {
		assert.Equal(t, http.StatusConflict, a.call(t, http.MethodDelete, "/api/v6/task/"+id, "").status, "runs are queued")
		list := a.ok(t, http.MethodGet, "/api/v6/task/"+id+"/history", "")
		for _, r := range list["history"].([]any) {
			path := "/api/v6/task/" + id + "/history/" + r.(map[string]any)["run_id"].(string)
			assert.Equal(t, true, a.ok(t, http.MethodDelete, path, "")["terminated"])
			assert.Equal(t, true, a.ok(t, http.MethodDelete, path, "")["terminated"], "twice is as good as once")
		}
		changed := a.ok(t, http.MethodPut, "/api/v6/task/"+id, `{"memory": 2048, "env": [], "definition_id": "x", "user": "ann"}`)
		assert.EqualValues(t, 2048, changed["memory"])
		assert.Equal(t, "echo hi", changed["command"])
		assert.Equal(t, true, a.ok(t, http.MethodDelete, "/api/v6/task/"+id, "")["deleted"])
		assert.Equal(t, http.StatusNotFound, a.call(t, http.MethodGet, "/api/v6/task/"+id, "").status)
	})
}

// TestTheOldWebUIOnTemplates makes the calls of the pages of templates, of a
// run that a link names, and of the forms' menus.
func TestTheOldWebUIOnTemplates(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	groups := a.ok(t, http.MethodGet, "/api/v1/groups?offset=0&limit=10000", "")
	assert.EqualValues(t, 10000, groups["limit"])
	assert.Contains(t, groups["groups"], "team")
	a.ok(t, http.MethodGet, "/api/v1/tags?offset=0&limit=10000", "")
	assert.Equal(t, "eks-full", a.ok(t, http.MethodGet, "/api/v1/task/history/eks-full", "")["run_id"])
	assert.Equal(t, "eks-full", a.ok(t, http.MethodGet, "/api/v6/task/history/eks-full", "")["run_id"])

	list := a.ok(t, http.MethodGet, "/api/v7/template?limit=20&offset=0&order=asc&sort_by=template_name&template_name=&latest_only=true", "")
	assert.NotEmpty(t, list["templates"])
	assert.Equal(t, "full", a.ok(t, http.MethodGet, "/api/v7/template/tpl-full-2", "")["template_name"])
	got := a.call(t, http.MethodPut, "/api/v7/template/tpl-full-2/execute", `{
		"CLUSTER": "flotilla-eks-old", "ENV": [{"NAME": "A", "VALUE": "1"}], "OWNER_ID": "ann", "Memory": 1024, "CPU": 512,
		"NODE_LIFECYCLE": "spot", "ENGINE": "eks", "TEMPLATE_PAYLOAD": {"name": "ui"}}`)
	require.Equal(t, http.StatusOK, got.status, "%s", got.body)
	run := got.object(t)
	assert.Equal(t, "ann", run["user"])
	assert.EqualValues(t, 1024, run["memory"])
	assert.Equal(t, "local", run["cluster"], "an unknown cluster is as good as none")
	assert.Contains(t, got.header.Get("Warning"), "flotilla-eks-old")
	assert.Contains(t, run["env"], map[string]any{"name": "A", "value": "1"})
	assert.Equal(t, "echo UI 1000000", run["command"])

	id := fmt.Sprint(run["run_id"])
	history := a.ok(t, http.MethodGet, "/api/v7/template/tpl-full-2/history?limit=20&offset=0&order=desc&sort_by=queued_at&status=&env=", "")
	assert.Contains(t, fmt.Sprint(history["history"]), id)
	assert.Equal(t, id, a.ok(t, http.MethodGet, "/api/v7/template/history/"+id, "")["run_id"])
	assert.Equal(t, true, a.ok(t, http.MethodDelete, "/api/v7/template/tpl-full-2/history/"+id, "")["terminated"])
}
