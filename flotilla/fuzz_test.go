package flotilla_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/flotilla"
)

// fuzzed is the API without a network.
func fuzzed(f *testing.F) http.Handler {
	f.Helper()
	a := newAPI(f)
	a.seed(f)
	router, err := flotilla.NewRouter(a.routerConfig(f))
	require.NoError(f, err)
	return router
}

// expect fails the test unless the status is 200 or one of an error of the caller.
func expect(t *testing.T, api http.Handler, r *http.Request) {
	t.Helper()
	w := httptest.NewRecorder()
	api.ServeHTTP(w, r)
	if w.Code != http.StatusOK && w.Code != http.StatusBadRequest {
		body, _ := io.ReadAll(w.Result().Body)
		t.Fatalf("%s %q: %d %s", r.Method, r.URL, w.Code, body)
	}
}

func FuzzListFilters(f *testing.F) {
	for _, query := range []string{
		"", "limit=2&offset=1&sort_by=status&order=desc", "env=A%7C1&env=B%7C", "status=RUNNING&status=QUEUED", "alias=%25_%5C",
		"queued_at_since=2026-03-04&queued_at_until=2026-03-04T09:30:00Z", "memory=512&gpu=0", "requires_docker=true", "exact_total=true",
		"latest_only=false&template_name=full", "run_id='%3B+drop+table+task%3B+--", "limit=99999999999999999999", "offset=-1", "%00=%ff", "&&==&",
		"started_at_since=0000-01-01T00:00:00Z", "started_at_until=9999-12-31T23:59:59.999999999-14:00", "exit_code=-2147483648", "user=bob&engine=ecs",
	} {
		f.Add(query)
	}
	api := fuzzed(f)
	f.Fuzz(func(t *testing.T, query string) {
		for _, path := range []string{"/api/v6/history", "/api/v6/task", "/api/v7/template", "/api/v6/groups"} {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			r.URL.RawQuery = query
			expect(t, api, r)
		}
	})
}

func FuzzLaunchRequest(f *testing.F) {
	for _, body := range []string{
		``, `{}`, `{"run_tags": {"owner_id": "ann"}}`, `{"RUN_TAGS": {"OWNER_ID": "ann"}, "engine": "eks", "cluster": "gone"}`,
		`{"run_tags": {"owner_id": "ann"}, "command": "echo \u00e9\n", "memory": 512, "cpu": 250, "gpu": 1, "ephemeral_storage": 1}`,
		`{"run_tags": {"owner_id": "ann"}, "env": [{"name": "A", "value": "1"}, {"NAME": "B"}], "labels": {"a/b": "c"}}`,
		`{"run_tags": {"owner_id": "ann"}, "engine": "eks-spark", "spark_extension": {"spark_submit_job_driver": {"entry_point": "x", "new": [1e3]}}}`,
		`{"run_tags": {"owner_id": "ann"}, "node_lifecycle": "ondemand", "active_deadline_seconds": 60, "idempotence_key": "k", "arch": "arm64"}`,
		`{"run_tags": {"owner_id": "a\u0000"}}`, `{"run_tags": {"owner_id": "\ud800"}}`, `{"run_tags": {"owner_id": "a"}, "memory": -1}`,
		`{"run_tags": {"owner_id": "a"}, "memory": 1e99, "command_hash": "x"}`, `[[[[`, `{"owner_id": "ann", "template_payload": {"name": "x", "count": 1.0}}`,
	} {
		f.Add(body)
	}
	api := fuzzed(f)
	f.Fuzz(func(t *testing.T, body string) {
		for _, path := range []string{
			"/api/v1/task/def-empty/execute", "/api/v2/task/def-empty/execute", "/api/v6/task/def-full/execute",
			"/api/v6/task/alias/" + url.PathEscape("team/full job") + "/execute", "/api/v7/template/tpl-full-2/execute",
		} {
			expect(t, api, httptest.NewRequest(http.MethodPut, path, strings.NewReader(body)))
		}
	})
}
