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

func TestListsEchoTheirParameters(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	for name, c := range map[string]struct {
		query string
		want  map[string]any
	}{
		"nothing": {"", map[string]any{"limit": 1024., "offset": 0., "sort_by": "group_name", "order": "asc", "env_filters": map[string]any{}}},
		"all":     {"limit=3&offset=2&sort_by=status&order=desc", map[string]any{"limit": 3., "offset": 2., "sort_by": "status", "order": "desc"}},
		"empty parameters are as good as none": {"limit=&offset=&sort_by=&order=&exact_total=&env=",
			map[string]any{"limit": 1024., "offset": 0., "sort_by": "group_name", "order": "asc"}},
		"a limit over the bound is cut":      {"limit=10001", map[string]any{"limit": 10000.}},
		"a limit beyond all numbers is cut":  {"limit=99999999999999999999999", map[string]any{"limit": 10000.}},
		"a limit of nothing gives the total": {"limit=0", map[string]any{"limit": 0., "history": []any{}, "total": 5.}},
		"one value is an array":              {"cluster_name=blue", map[string]any{"cluster_name": []any{"blue"}, "total": 2.}},
		"several values are an array":        {"status=QUEUED&status=RUNNING", map[string]any{"status": []any{"QUEUED", "RUNNING"}, "total": 3.}},
		"environments are an object":         {"env=COLOUR%7Ca%7Cb&env=PARENT_FLOTILLA_RUN_ID%7Ceks-full", map[string]any{"env_filters": map[string]any{"COLOUR": "a|b", "PARENT_FLOTILLA_RUN_ID": "eks-full"}, "total": 1.}},
		"all environments must match":        {"env=COLOUR%7Ca%7Cb&env=NO%7C", map[string]any{"total": 0.}},
		"a percent sign is itself":           {"exit_reason=%25", map[string]any{"total": 0.}},
		"an underscore is itself":            {"alias=_", map[string]any{"total": 0.}},
		"a part of a searchable column":      {"alias=full+job", map[string]any{"total": 1.}},
		"not in other case":                  {"alias=FULL", map[string]any{"total": 0.}},
		"the whole of a column that is not":  {"cluster_name=blu", map[string]any{"cluster_name": []any{"blu"}, "total": 0.}},
		"a column named by a word of SQL":    {"user=bob", map[string]any{"user": []any{"bob"}, "total": 1.}},
		"a total that must be exact":         {"", map[string]any{"total": 5.}},
		"a time":                             {"started_at_since=2026-03-04T10:00:00Z", map[string]any{"started_at_since": []any{"2026-03-04T10:00:00Z"}, "total": 1.}},
		"a date":                             {"queued_at_until=2026-03-04", map[string]any{"total": 0.}},
		"statement text is a value":          {"run_id=" + url.QueryEscape(`'; drop table task; --`), map[string]any{"total": 0.}},
		"a long value":                       {"cluster_name=" + strings.Repeat("x", 900_000), map[string]any{"total": 0.}},
		"only the requested engine":          {"engine=eks-spark", map[string]any{"total": 1.}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			query := c.query
			if _, counted := c.want["total"]; counted {
				query += "&exact_total=true" // a busy machine would estimate
			}
			got := a.ok(t, http.MethodGet, "/api/v6/history?"+query, "")
			for member, want := range c.want {
				assert.Equal(t, want, got[member], member)
			}
		})
	}
}

func TestMalformedListParametersAreRefused(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	for _, c := range []struct{ query, want string }{
		{"limit=-1", "limit"},
		{"limit=ten", "limit"},
		{"limit=1.5", "limit"},
		{"limit=0x10", "limit"},
		{"offset=-1", "offset"},
		{"offset=x", "offset"},
		{"offset=99999999999999999999999", "offset"},
		{"sort_by=command", "run_id"},
		{"sort_by=run_id;drop", "query string"},
		{"sort_by=run_id%3Bdrop", "sort_by"},
		{"limit=0&sort_by=nonsense", "sort_by"},
		{"order=up", "order"},
		{"limit=0&order=up", "order"},
		{"exact_total=maybe", "exact_total"},
		{"env=NOBAR", "|"},
		{"env=A%7C1&env=B", "|"},
		{"env=%00%7C", "NUL"},
		{"status=DONE", "QUEUED"},
		{"status=QUEUED&status=", "status"},
		{"cluster=blue", "cluster_name"},
		{"env_filters=x", "cluster_name"},
		{"total=x", "cluster_name"},
		{url.QueryEscape(`run_id = '' OR 1=1 --`) + "=x", "cluster_name"},
		{url.QueryEscape(`"; drop table task; --`) + "=x", "cluster_name"},
		{"command%00=x", "NUL"},
		{"command=%00", "NUL"},
		{"command=%ff", "UTF-8"},
		{"command=%zz", "query string"},
		{"memory=much", "memory"},
		{"memory=99999999999", "memory"},
		{"exit_code=1.5", "exit_code"},
		{"requires_docker=perhaps", "requires_docker"},
		{"queued_at_since=a+week+ago", "queued_at_since"},
		{"queued_at_since=2026-13-01", "queued_at_since"},
		{"status_since=2026-01-01", "cluster_name"},
		{strings.Repeat("x", 1000) + "=y", "there is no filter"},
		{"latest_only=true", "latest_only"},
	} {
		t.Run(c.query, func(t *testing.T) {
			t.Parallel()
			got := a.call(t, http.MethodGet, "/api/v6/history?"+c.query, "")
			assert.Equal(t, http.StatusBadRequest, got.status, "%s", got.body)
			assert.Contains(t, got.failure(t), c.want)
		})
	}
}

func TestPagesNeitherRepeatNorSkipRows(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	_, err := a.db.Exec(`INSERT INTO task (run_id, definition_id, status, queued_at, group_name)
		SELECT 'eks-' || n, 'def-empty', 'STOPPED', now(), 'g' || n % 3 FROM generate_series(1, 95) AS n`)
	require.NoError(t, err)
	for _, sortBy := range []string{"group_name", "status", "started_at", "queued_at", "run_id", "cluster_name", "finished_at"} {
		for _, order := range []string{"asc", "desc"} {
			seen := map[any]bool{}
			for offset := 0; ; offset += 9 {
				page := a.ok(t, http.MethodGet, fmt.Sprintf("/api/v6/history?limit=9&offset=%d&sort_by=%s&order=%s", offset, sortBy, order), "")
				for _, run := range objects(t, page["history"]) {
					seen[run["run_id"]] = true
				}
				if total, _ := page["total"].(float64); float64(offset+9) >= total {
					break
				}
			}
			assert.Len(t, seen, 100, "%s %s", sortBy, order)
		}
	}
}

func TestListsOfTemplatesHoldTheLatestVersionsByDefault(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	assert.EqualValues(t, 2, a.ok(t, http.MethodGet, "/api/v7/template", "")["total"])
	assert.EqualValues(t, 3, a.ok(t, http.MethodGet, "/api/v7/template?latest_only=false", "")["total"])
	assert.EqualValues(t, 3, a.ok(t, http.MethodGet, "/api/v7/template?latest_only=False", "")["total"], "as Python writes it")
	assert.EqualValues(t, 2, a.ok(t, http.MethodGet, "/api/v7/template?latest_only=TRUE", "")["total"])
	assert.Equal(t, http.StatusBadRequest, a.call(t, http.MethodGet, "/api/v7/template?latest_only=no", "").status)
}
