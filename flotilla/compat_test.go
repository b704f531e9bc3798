package flotilla_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/flotilla"
)

// The tests of this file check what existing clients and databases rely on (rest-api.md).

func TestAnUpdateIgnoresEmptyTextsAndClearsWithNull(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	const path = "/api/v6/task/def-full"
	before := a.ok(t, http.MethodGet, path, "")
	same := a.ok(t, http.MethodPut, path, `{"alias": "", "image": "", "command": "", "group_name": "", "task_type": "", "target_cluster": "", "IMAGE": ""}`)
	assert.Equal(t, before, same, "empty texts mean unchanged")
	same = a.ok(t, http.MethodPut, path, `{"alias": null, "image": null}`)
	assert.Equal(t, before, same, "what must be there cannot be cleared")
	a.ok(t, http.MethodPut, path, `{"alias": "", "image": "", "memory": 701}`)
	assert.EqualValues(t, 701, a.ok(t, http.MethodGet, path, "")["memory"], "as the old program's own client updates")

	changed := a.ok(t, http.MethodPut, path, `{"requires_docker": false, "target_cluster": "green", "group_name": "g2", "TASK_TYPE": "t2"}`)
	assert.NotContains(t, changed, "requires_docker")
	assert.Equal(t, "green", changed["target_cluster"])
	assert.Equal(t, "g2", changed["group_name"])
	assert.Equal(t, "t2", changed["task_type"])

	cleared := a.ok(t, http.MethodPut, path, `{"command": null, "group_name": null, "task_type": null, "requires_docker": null, "target_cluster": null,
		"memory": null, "cpu": null, "gpu": null, "ephemeral_storage": null, "env": null, "adaptive_resource_allocation": null, "ports": null, "tags": null}`)
	assert.Equal(t, map[string]any{
		"definition_id": "def-full", "alias": before["alias"], "image": before["image"], "env": []any{}, "adaptive_resource_allocation": true,
	}, cleared)
}

func TestADefinitionThatWasReadCanBeWrittenBack(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	a.insert(t, "tags", json.RawMessage(`[{"text": ""}]`))
	a.insert(t, "task_def_tags", json.RawMessage(`[{"tag_id": "", "task_def_id": "def-full"}]`))
	for _, id := range []string{"def-full", "def-empty", "def-old"} {
		got := a.call(t, http.MethodGet, "/api/v6/task/"+id, "")
		back := a.call(t, http.MethodPut, "/api/v6/task/"+id, string(got.body))
		require.Equal(t, http.StatusOK, back.status, "%s", back.body)
		assert.Empty(t, back.header.Get("Warning"), "every field of an answer is known")
	}
	got := a.ok(t, http.MethodPut, "/api/v6/task/def-full", `{"tags": ["", "b", " ", "a"]}`)
	assert.Equal(t, []any{"a", "b"}, got["tags"], "empty tags are dropped")
	created := a.ok(t, http.MethodPost, "/api/v6/task", `{"alias": "tagged", "image": "i", "tags": [""]}`)
	assert.NotContains(t, created, "tags")
	template := a.ok(t, http.MethodPost, "/api/v7/template",
		`{"template_name": "tagged", "image": "i", "schema": {}, "command_template": "ls", "tags": ["", "a"]}`)["template"]
	assert.Contains(t, fmt.Sprint(template), "tags:[a]")
}

func TestAdaptiveResourceAllocationIsOnUnlessItIsOff(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	_, err := a.db.Exec(`UPDATE task_def SET adaptive_resource_allocation = NULL`)
	require.NoError(t, err)
	for _, d := range objects(t, a.ok(t, http.MethodGet, "/api/v6/task", "")["definitions"]) {
		assert.Equal(t, true, d["adaptive_resource_allocation"], d["definition_id"])
	}
	off := a.ok(t, http.MethodPut, "/api/v6/task/def-full", `{"adaptive_resource_allocation": false}`)
	assert.Equal(t, false, off["adaptive_resource_allocation"])
}

func TestDeletingAMissingDefinitionSucceeds(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	assert.Equal(t, map[string]any{"deleted": true}, a.ok(t, http.MethodDelete, "/api/v6/task/none", ""))
	assert.Equal(t, http.StatusNotFound, a.call(t, http.MethodDelete, "/api/v6/clusters/99", "").status)
}

func TestDoubledSlashesCountAsOne(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	for _, path := range []string{"//api//v6/task", "/api/v6//task/", "//api/v6/task//def-full", "/api/v6///task/alias/team%2Ffull%20job"} {
		want := http.StatusOK
		if strings.HasSuffix(path, "/") {
			want = http.StatusNotFound
		}
		r := a.request(t, http.MethodGet, path, "")
		response, err := a.client.Do(r)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		assert.Equal(t, want, response.StatusCode, path)
	}
	_, err := a.db.Exec(`UPDATE task_def SET alias = 'a//b' WHERE definition_id = 'def-full'`)
	require.NoError(t, err)
	assert.Equal(t, "a//b", a.ok(t, http.MethodGet, "/api/v6/task/alias/a%2F%2Fb", "")["alias"], "encoded ones are a parameter's")
	r := a.request(t, http.MethodPatch, "//api//v6/task/def-full", "")
	assert.Equal(t, "GET, PUT, DELETE", a.send(t, r).header.Get("Allow"))
}

func TestHeadersThatAWebPageMayRead(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	r := a.request(t, http.MethodGet, "/api/v6/health", "")
	r.Header.Set("Origin", "https://ui.example")
	assert.Equal(t, []string{"Warning, X-Request-Id, ETag"}, a.send(t, r).header.Values("Access-Control-Expose-Headers"))
}

// A client that sends its whole body before it reads must get the refusal, not a reset connection.
func TestRefusalsReachAClientThatSendsFirst(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	withTokens := newAPI(t, func(c *flotilla.RouterConfig) {
		c.HTTP.APITokens = append(c.HTTP.APITokens, token("w", "write", "wr1te"))
	})
	const size = 20 << 20
	for name, c := range map[string]struct {
		url, path, header string
		want              int
	}{
		"with a length":   {a.url, "/api/v6/task", fmt.Sprintf("Content-Length: %d", size), http.StatusRequestEntityTooLarge},
		"chunked":         {a.url, "/api/v6/task", "Transfer-Encoding: chunked", http.StatusRequestEntityTooLarge},
		"to nowhere":      {a.url, "/api/v6/nothing", fmt.Sprintf("Content-Length: %d", size), http.StatusNotFound},
		"without a token": {withTokens.url, "/api/v6/task", fmt.Sprintf("Content-Length: %d", size), http.StatusUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connection, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
			require.NoError(t, err)
			defer func() { _ = connection.Close() }()
			require.NoError(t, connection.SetDeadline(time.Now().Add(time.Minute)))
			_, err = fmt.Fprintf(connection, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%s\r\n\r\n", c.path, c.header)
			require.NoError(t, err)
			part := strings.Repeat(" ", 1<<20)
			for range size >> 20 {
				if c.header == "Transfer-Encoding: chunked" {
					_, err = fmt.Fprintf(connection, "%x\r\n%s\r\n", len(part), part)
				} else {
					_, err = io.WriteString(connection, part)
				}
				require.NoError(t, err)
			}
			if c.header == "Transfer-Encoding: chunked" {
				_, err = io.WriteString(connection, "0\r\n\r\n")
				require.NoError(t, err)
			}
			response, err := http.ReadResponse(bufio.NewReader(connection), nil)
			require.NoError(t, err)
			defer func() { _ = response.Body.Close() }()
			assert.Equal(t, c.want, response.StatusCode)
		})
	}
}

func TestInvalidUTF8IsRefused(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	const tags = `"run_tags": {"owner_id": "a"}`
	for name, body := range map[string]string{
		"Latin-1":                       `{` + tags + `, "command": "` + "caf\xe9" + `"}`,
		"Latin-1 in a key":              `{` + tags + `, "` + "caf\xe9" + `": 1}`,
		"half a character at the end":   `{` + tags + `, "command": "` + "\xf0\x9f" + `"}`,
		"a lone high surrogate":         `{` + tags + `, "command": "\ud800"}`,
		"a lone low surrogate":          `{` + tags + `, "command": "\uDC00"}`,
		"two high surrogates":           `{` + tags + `, "command": "\ud83d\ud83d"}`,
		"a high surrogate and a letter": `{` + tags + `, "command": "\ud83d\u0041"}`,
		"a surrogate in a key":          `{` + tags + `, "x\udfff": 1}`,
		"a surrogate deep within":       `{` + tags + `, "spark_extension": {"x": [{"y": "\ud800"}]}}`,
		"a surrogate in a label":        `{` + tags + `, "labels": {"a": "\ud800"}}`,
		"a NUL in a label's key":        `{` + tags + `, "labels": {"\u0000": "a"}}`,
		"a raw NUL":                     `{` + tags + `, "command": "` + "\x00" + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := a.call(t, http.MethodPut, executeEmpty, body)
			assert.Equal(t, http.StatusBadRequest, got.status, "%s", got.body)
			assert.Greater(t, len(got.failure(t)), 10)
			if !strings.Contains(name, "NUL") {
				assert.Equal(t, http.StatusBadRequest, a.call(t, http.MethodPut, "/api/v1/task/def-empty/execute", body).status, "v1 too")
			}
		})
	}
	for sent, want := range map[string]string{
		`\ud83d\ude00`: "\U0001F600", `\uD83D\uDE00x\ud83d\ude00`: "\U0001F600x\U0001F600", "\uFFFD": "\uFFFD", `\ufffd`: "\uFFFD",
		`\\ud800`: `\ud800`, `\"\\\\\ud83d\ude00`: `"\\` + "\U0001F600",
	} {
		run := a.ok(t, http.MethodPut, executeEmpty, `{`+tags+`, "command": "`+sent+`"}`)
		assert.Equal(t, want, run["command"], sent)
	}
}

func TestUnknownFieldsAreNamedInAWarning(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	for name, c := range map[string]struct{ path, body, want string }{
		"one letter off":    {executeEmpty, `{"run_tags": {"owner_id": "a"}, "memmory": 5}`, "memmory (did you mean memory?)"},
		"nested":            {executeEmpty, `{"run_tags": {"owner_id": "a", "team": "x"}}`, "run_tags.team (did you mean team_name?)"},
		"in a list":         {executeEmpty, `{"run_tags": {"owner_id": "a"}, "env": [{"name": "A", "val": "1"}]}`, "env.val (did you mean value?)"},
		"nothing like it":   {executeEmpty, `{"run_tags": {"owner_id": "a"}, "zzzzzzzz": 5}`, "zzzzzzzz"},
		"a definition's":    {"/api/v6/task/def-empty", `{"require_docker": true}`, "require_docker (did you mean requires_docker?)"},
		"v1":                {"/api/v1/task/def-empty/execute", `{"teir": "1", "memory": "much"}`, "memory, teir (did you mean tier?)"},
		"v2":                {"/api/v2/task/def-empty/execute", `{"run_tags": {"owner_email": "a", "team_name": "b"}, "comand": [5]}`, "comand"},
		"known":             {executeEmpty, `{"RUN_TAGS": {"OWNER_ID": "a"}, "command_hash": "x", "labels": {"any": "key"}}`, ""},
		"of Spark are kept": {executeEmpty, `{"run_tags": {"owner_id": "a"}, "spark_extension": {"unknown": 1}}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := a.call(t, http.MethodPut, c.path, c.body)
			require.Equal(t, http.StatusOK, got.status, "%s", got.body)
			if c.want == "" {
				assert.Empty(t, got.header.Get("Warning"))
				return
			}
			assert.Equal(t, `299 flotilla "ignored fields: `+c.want+`"`, got.header.Get("Warning"))
		})
	}
	var many strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&many, `, "unknown%d": 1`, i)
	}
	got := a.call(t, http.MethodPut, executeEmpty, `{"run_tags": {"owner_id": "a"}`+many.String()+`}`)
	assert.Equal(t, http.StatusOK, got.status)
	assert.Less(t, len(got.header.Get("Warning")), 1000)
}

func TestNumbersOfAPayloadStayAsTheyWereSent(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.ok(t, http.MethodPost, "/api/v7/template", `{"template_name": "numbers", "image": "i", "schema": {"type": "object"},
		"command_template": "echo {{.a}} {{.b}} {{.c}} {{.d}}", "defaults": {"d": 2.50}}`)
	const execute = "/api/v7/template/name/numbers/version/latest/execute"
	got := a.call(t, http.MethodPut, execute, `{"owner_id": "a", "template_payload": {"a": 12345678901234567890, "b": 1.10, "c": 1e400}}`)
	require.Equal(t, http.StatusOK, got.status, "%s", got.body)
	var run struct {
		Command string `json:"command"`
		Custom  struct {
			Payload map[string]json.Number `json:"template_payload"`
		} `json:"execution_request_custom"`
	}
	require.NoError(t, json.Unmarshal(got.body, &run))
	assert.Equal(t, "echo 12345678901234567890 1.10 1e400 2.50", run.Command)
	assert.Equal(t, json.Number("12345678901234567890"), run.Custom.Payload["a"])
	assert.Equal(t, json.Number("1.10"), run.Custom.Payload["b"])
	for _, number := range []string{"1e999999", "-1e-999999", "1e99999999999999999999", strings.Repeat("9", 2000)} {
		got := a.call(t, http.MethodPut, execute, `{"owner_id": "a", "template_payload": {"a": `+number+`}}`)
		assert.Equal(t, http.StatusBadRequest, got.status, number)
		assert.Contains(t, got.failure(t), "digits")
	}
}

func TestNoTagOfAMetricIsEmpty(t *testing.T) {
	t.Parallel()
	seen := &counter{counts: map[string]int64{}}
	a := newAPI(t, func(c *flotilla.RouterConfig) { c.Metrics = seen })
	a.seed(t)
	tag := a.call(t, http.MethodGet, "/api/v6/eks-full/status", "").header.Get("ETag")
	r := a.request(t, http.MethodGet, "/api/v6/eks-full/status", "")
	r.Header.Set("If-None-Match", tag)
	require.Equal(t, http.StatusNotModified, a.send(t, r).status)
	var together sync.WaitGroup
	for _, c := range []struct{ method, path string }{
		{http.MethodGet, "/"}, {http.MethodGet, "//"}, {http.MethodPatch, "/api/v6/task/x"}, {"", "/api/v6/task"}, {"BREW", "/x"},
		{http.MethodOptions, "/api/v6/task"}, {http.MethodHead, "/api/v6/task"}, {http.MethodGet, "/api/v6/eks-full/logs?raw_text=true"},
	} {
		together.Go(func() {
			r, err := http.NewRequest(c.method, a.url+c.path, nil)
			if assert.NoError(t, err) {
				response, err := a.client.Do(r)
				if assert.NoError(t, err) {
					_ = response.Body.Close()
				}
			}
		})
	}
	together.Wait()
	seen.mu.Lock()
	defer seen.mu.Unlock()
	assert.NotEmpty(t, seen.counts)
	for count := range seen.counts {
		for tag := range strings.FieldsSeq(count) {
			assert.False(t, strings.HasSuffix(tag, ":"), count)
		}
	}
}
