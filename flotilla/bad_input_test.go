package flotilla_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/flotilla"
)

// sound holds path parameters of rows that exist in the contract.
var sound = map[string]string{
	"definition_id": "def-full", "alias": "empty", "run_id": "eks-child", "template_id": "tpl-full-2",
	"template_name": "full", "template_version": "1", "cluster_id": "7", "worker_type": "submit",
}

// hostile lists texts with a meaning in SQL, HTML, templates or shells.
var hostile = []string{
	`'; drop table task; --`, `' OR '1'='1`, `%`, `_`, `\`, `"`, `$1`, `%s%n`, `../../etc/passwd`, `<script>`, `null`, `-1`,
	`99999999999999999999`, `1e309`, "\u202e", "🚀", strings.Repeat("x", 100_000), strings.Repeat("9", 5_000), " ", "\n", "\xff", "a\x00b",
}

func fill(pattern string, with func(name string) string) string {
	parts := strings.Split(pattern, "/")
	for i, part := range parts {
		if strings.HasPrefix(part, "{") {
			parts[i] = url.PathEscape(with(strings.Trim(part, "{}")))
		}
	}
	return strings.Join(parts, "/")
}

func soundPath(pattern string) string {
	return fill(pattern, func(name string) string { return sound[name] })
}

func takesBody(route flotilla.Route) bool {
	return route.Method == http.MethodPost || route.Method == http.MethodPut
}

// contents returns a checksum of every table.
func (a *testAPI) contents(t testing.TB) map[string]string {
	t.Helper()
	sums := map[string]string{}
	for _, table := range tables {
		var sum string
		err := a.db.QueryRow(`SELECT count(*) || ' ' || COALESCE(md5(string_agg(r::text, chr(10) ORDER BY r::text)), '') FROM ` + table + ` AS r`).Scan(&sum)
		require.NoError(t, err)
		sums[table] = sum
	}
	return sums
}

// refused checks that a request was refused with a message and changed nothing.
func refused(t testing.TB, got answer, about string) {
	t.Helper()
	assert.GreaterOrEqual(t, got.status, 400, "%s: %s", about, got.body)
	assert.Less(t, got.status, 500, "%s: %s", about, got.body)
	assert.Greater(t, len(got.failure(t)), 10, about)
}

func short(s string) string { return s[:min(len(s), 60)] }

func TestHostilePathsAreRefusedByEveryRoute(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	before := a.contents(t)
	for _, route := range flotilla.Routes() {
		if !strings.Contains(route.Pattern, "{") {
			continue
		}
		for _, text := range hostile {
			body := ""
			if takesBody(route) {
				body = validBody(t, a.document, route)
			}
			if strings.HasPrefix(route.Pattern, "/api/v7/template/name/{template_name}/version") && text != "\xff" && !strings.Contains(text, "\x00") {
				// A version may be any text.
				path := fill(route.Pattern, func(name string) string {
					return map[string]string{"template_name": text, "template_version": text}[name]
				})
				refused(t, a.call(t, route.Method, path, body), route.Pattern)
				continue
			}
			path := fill(route.Pattern, func(name string) string {
				if name == "definition_id" && strings.Contains(route.Pattern, "{run_id}") {
					return "any"
				}
				return text
			})
			got := a.call(t, route.Method, path, body)
			if route.Method == http.MethodDelete && strings.HasSuffix(route.Pattern, "/task/{definition_id}") && got.status == http.StatusOK {
				continue // Deleting a missing definition succeeds.
			}
			refused(t, got, route.Method+" "+route.Pattern+" "+short(text))
		}
	}
	assert.Equal(t, before, a.contents(t))
}

func TestHostileQueriesNeverFail(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	before := a.contents(t)
	names := []string{"limit", "offset", "sort_by", "order", "env", "name", "status", "alias", "command", "memory", "run_id", "queued_at_since",
		"last_seen", "raw_text", "role", "facility", "exact_total", "latest_only", "image", "engine", "requires_docker"}
	for _, route := range flotilla.Routes() {
		if route.Method != http.MethodGet {
			continue
		}
		for _, text := range hostile {
			for _, query := range []string{url.QueryEscape(text) + "=x", "x=" + url.QueryEscape(text), names[len(text)%len(names)] + "=" + url.QueryEscape(text)} {
				got := a.call(t, route.Method, soundPath(route.Pattern)+"?"+query, "")
				assert.Contains(t, []int{http.StatusOK, http.StatusBadRequest, http.StatusNotFound}, got.status, "%s?%s: %s", route.Pattern, short(query), got.body)
			}
		}
	}
	for _, list := range []string{"/api/v6/history", "/api/v6/task", "/api/v7/template"} {
		for _, name := range names {
			for _, text := range hostile {
				got := a.call(t, http.MethodGet, list+"?"+name+"="+url.QueryEscape(text), "")
				assert.Contains(t, []int{http.StatusOK, http.StatusBadRequest}, got.status, "%s?%s=%s: %s", list, name, short(text), got.body)
			}
		}
	}
	assert.Equal(t, before, a.contents(t))
}

func TestMalformedBodiesAreRefusedByEveryRoute(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	before := a.contents(t)
	for _, route := range flotilla.Routes() {
		if !takesBody(route) {
			continue
		}
		for _, body := range []string{
			`{`, `nonsense`, `"text"`, `7`, `-`, `null`, `true`, `[1]`, `{"a": }`, `{"a": 1,}`, `{'a': 1}`, "{\"a\": \"\n\"}", `{"a": 1}}`,
			`{"a": "\ud8"}`, "\x00", "\xff\xfe", `{"a": 01}`, `{"a": NaN}`, strings.Repeat(`{"a":`, 20_000), strings.Repeat("x", 11<<20),
		} {
			refused(t, a.call(t, route.Method, soundPath(route.Pattern), body), route.Method+" "+route.Pattern+" "+short(body))
		}
	}
	assert.Equal(t, before, a.contents(t))
}

func TestMembersOfAnotherTypeAreRefusedByName(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	before := a.contents(t)
	tried := 0
	for _, route := range flotilla.Routes() {
		if !takesBody(route) {
			continue
		}
		properties, names, isArray := requestSchema(t, a.document, route)
		for _, name := range slices.Sorted(maps.Keys(properties)) {
			if name == "worker_type" && !isArray {
				continue // The path has it.
			}
			for _, value := range wrong(properties[name]) {
				members := map[string]any{}
				for _, other := range names {
					members[other] = required[other]
				}
				members[name] = value
				about := fmt.Sprintf("%s %s with %s = %v", route.Method, route.Pattern, name, value)
				got := a.call(t, route.Method, soundPath(route.Pattern), body(t, isArray, members))
				if assert.Equal(t, http.StatusBadRequest, got.status, "%s: %s", about, got.body) {
					assert.Contains(t, got.failure(t), name, about)
				}
				tried++
			}
		}
	}
	assert.Greater(t, tried, 1000)
	assert.Equal(t, before, a.contents(t))
}

func TestHostileTextsAreStoredAsTheyAre(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	for i, text := range hostile {
		if text == "\xff" || strings.Contains(text, "\x00") || strings.TrimSpace(text) == "" || len(text) > 500 {
			continue
		}
		raw, err := json.Marshal(map[string]any{
			"run_tags": map[string]any{"owner_id": text}, "command": text, "description": text, "idempotence_key": text,
			"env": []any{map[string]any{"name": fmt.Sprintf("V%d", i), "value": text}}, "labels": map[string]any{"l": text}, "cluster": text,
		})
		require.NoError(t, err)
		run := a.ok(t, http.MethodPut, executeEmpty, string(raw))
		for _, member := range []string{"user", "command", "description", "idempotence_key"} {
			assert.Equal(t, text, run[member], member)
		}
		list := a.ok(t, http.MethodGet, "/api/v6/history?user="+url.QueryEscape(text)+"&command="+url.QueryEscape(text)+
			"&env="+url.QueryEscape(fmt.Sprintf("V%d|%s", i, text)), "")
		assert.EqualValues(t, 1, list["total"], text)
	}
}

func TestAWarningShortensALongName(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	body := `{"run_tags": {"owner_id": "a"}, "cluster": "` + strings.Repeat("x", 1<<20) + `\r\nX-Injected: 1"}`
	got := a.call(t, http.MethodPut, executeEmpty, body)
	require.Equal(t, http.StatusOK, got.status)
	warning := got.header.Get("Warning")
	assert.Less(t, len(warning), 1000)
	assert.Contains(t, warning, "xxx")
	assert.Empty(t, got.header.Get("X-Injected"))
}
