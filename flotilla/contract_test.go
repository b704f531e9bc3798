package flotilla_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/flotilla"
)

// The contract of the API, one folder per route in testdata/contract and one
// file per case: the request, and the answer key by key. rows.json is what the
// database holds before each.

var update = flag.Bool("update", false, "write the answers of the contract from what the API answers; read the difference before committing it")

const contractDir = "testdata/contract"

// contractCase is one golden file.
type contractCase struct {
	// Versions are the API versions that answer alike; none for paths outside
	// of /api/<version>.
	Versions []string        `json:"versions,omitempty"`
	Request  contractRequest `json:"request"`
	Answer   contractAnswer  `json:"answer"`
}

type contractRequest struct {
	Method string `json:"method"`
	// Path follows /api/<version>.
	Path    string            `json:"path"`
	Headers map[string]string `json:"headers,omitempty"`
	Body    json.RawMessage   `json:"body,omitempty"`
}

type contractAnswer struct {
	Status int `json:"status"`
	// Headers must be there; others may be.
	Headers map[string]string `json:"headers,omitempty"`
	Body    json.RawMessage   `json:"body,omitempty"`
	// Text is a body that is not JSON.
	Text string `json:"text,omitempty"`
}

func (c contractCase) prefixes() []string {
	if len(c.Versions) == 0 {
		return []string{""}
	}
	var out []string
	for _, version := range c.Versions {
		out = append(out, "/api/"+version)
	}
	return out
}

// tables lists the tables of rows.json in an order in which they can be
// filled.
var tables = []string{
	"task_def", "task_def_ports", "tags", "task_def_tags", "task", "template", "cluster_state", "worker",
}

// seed fills the database with the rows of the contract.
func (a *testAPI) seed(t testing.TB) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(contractDir, "rows.json"))
	require.NoError(t, err)
	var rows map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(raw, &rows))
	require.Len(t, rows, len(tables))
	for _, table := range tables {
		a.insert(t, table, rows[table])
	}
	a.engine.write("eks-full", "one\ntwo\n")
	a.engine.manifests["eks-full"] = "kind: Job\n"
}

// reset makes the database what it was before the first case. The services
// are new too: they remember clusters for a while.
func (a *testAPI) reset(t testing.TB) {
	t.Helper()
	_, err := a.db.Exec(`TRUNCATE ` + strings.Join(tables, ", ") + ` RESTART IDENTITY CASCADE`)
	require.NoError(t, err)
	a.engine = newCluster()
	a.serve(t)
	a.seed(t)
}

func TestContract(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(contractDir, "*", "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	reading, writing := newAPI(t), newAPI(t)
	reading.seed(t)
	for _, file := range files {
		golden := readCase(t, file)
		for _, prefix := range golden.prefixes() {
			name, _ := filepath.Rel(contractDir, strings.TrimSuffix(file, ".json"))
			t.Run(name+prefix, func(t *testing.T) {
				a := reading
				if golden.Request.Method != http.MethodGet {
					a = writing
					a.reset(t)
				}
				got := a.replay(t, prefix, golden.Request)
				if *update {
					golden.Answer = recorded(t, golden.Answer, got)
					writeCase(t, file, golden)
				}
				golden.Answer.compare(t, got)
			})
		}
	}
}

func readCase(t testing.TB, file string) contractCase {
	t.Helper()
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	var golden contractCase
	require.NoError(t, json.Unmarshal(raw, &golden), file)
	return golden
}

func writeCase(t testing.TB, file string, golden contractCase) {
	t.Helper()
	raw, err := json.MarshalIndent(golden, "", "  ")
	require.NoError(t, err)
	raw = []byte(strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(string(raw)))
	require.NoError(t, os.WriteFile(file, append(raw, '\n'), 0o644))
}

func (a *testAPI) replay(t testing.TB, prefix string, request contractRequest) answer {
	t.Helper()
	r := a.request(t, request.Method, prefix+request.Path, string(request.Body))
	for name, value := range request.Headers {
		r.Header.Set(name, value)
	}
	return a.send(t, r)
}

func (want contractAnswer) compare(t testing.TB, got answer) {
	t.Helper()
	assert.Equal(t, want.Status, got.status)
	for name, value := range want.Headers {
		assert.Equal(t, value, got.header.Get(name), name)
	}
	if want.Body == nil {
		assert.Equal(t, want.Text, string(got.body))
		return
	}
	var wanted, found any
	require.NoError(t, json.Unmarshal(want.Body, &wanted))
	require.NoError(t, json.Unmarshal(got.body, &found), string(got.body))
	compareValues(t, "answer", wanted, found)
}

// placeholders stand in a golden answer for what differs from run to run.
var placeholders = map[string]*regexp.Regexp{
	"<run id>":              regexp.MustCompile(`^eks-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$|^eks-[0-9a-f]{4}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$`),
	"<spark run id>":        regexp.MustCompile(`^eks-spark-[0-9a-f]{3}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$`),
	"<team definition id>":  regexp.MustCompile(`^the-team-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$`),
	"<plain definition id>": regexp.MustCompile(`^-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$`),
	"<template id>":         regexp.MustCompile(`^tpl-[0-9a-f]{4}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$`),
}

// compareValues reports every place where found differs from wanted.
func compareValues(t testing.TB, at string, wanted, found any) {
	t.Helper()
	switch wanted := wanted.(type) {
	case map[string]any:
		members, ok := found.(map[string]any)
		if !assert.True(t, ok, "%s is %v, not an object", at, found) {
			return
		}
		for name := range wanted {
			if assert.Contains(t, members, name, at) {
				compareValues(t, at+"."+name, wanted[name], members[name])
			}
		}
		for name, value := range members {
			assert.Contains(t, wanted, name, "%s has one member too many: %v", at, value)
		}
	case []any:
		items, ok := found.([]any)
		if !assert.True(t, ok, "%s is %v, not an array", at, found) || !assert.Len(t, items, len(wanted), at) {
			return
		}
		for i := range wanted {
			compareValues(t, fmt.Sprintf("%s[%d]", at, i), wanted[i], items[i])
		}
	case string:
		if pattern, ok := placeholders[wanted]; ok {
			text, _ := found.(string)
			assert.Regexp(t, pattern, text, at)
			return
		}
		assert.Equal(t, wanted, found, at)
	default:
		assert.Equal(t, wanted, found, at)
	}
}

// recorded makes a golden answer of a real one.
func recorded(t testing.TB, before contractAnswer, got answer) contractAnswer {
	t.Helper()
	after := contractAnswer{Status: got.status}
	for name := range before.Headers {
		if after.Headers == nil {
			after.Headers = map[string]string{}
		}
		after.Headers[name] = got.header.Get(name)
	}
	var value any
	if json.Unmarshal(got.body, &value) != nil {
		after.Text = string(got.body)
		return after
	}
	raw, err := json.Marshal(masked(value))
	require.NoError(t, err)
	after.Body = raw
	return after
}

func masked(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for name := range value {
			value[name] = masked(value[name])
		}
	case []any:
		for i := range value {
			value[i] = masked(value[i])
		}
	case string:
		for placeholder, pattern := range placeholders {
			if pattern.MatchString(value) {
				return placeholder
			}
		}
	}
	return value
}

func TestEveryRouteHasAContract(t *testing.T) {
	t.Parallel()
	d := openAPI(t)
	files, err := filepath.Glob(filepath.Join(contractDir, "*", "*.json"))
	require.NoError(t, err)
	var covered []flotilla.Route
	for _, file := range files {
		golden := readCase(t, file)
		for _, prefix := range golden.prefixes() {
			path, _, _ := strings.Cut(prefix+golden.Request.Path, "?")
			if golden.Answer.Status == http.StatusOK {
				covered = append(covered, flotilla.Route{Method: golden.Request.Method, Pattern: d.pattern(golden.Request.Method, path)})
			}
		}
	}
	for _, route := range flotilla.Routes() {
		if route.Pattern == "/api/openapi.json" {
			continue // TestTheOpenAPIDocumentIsServed holds all of it.
		}
		assert.True(t, slices.Contains(covered, route), "no case in %s answers %s %s with 200", contractDir, route.Method, route.Pattern)
	}
}
