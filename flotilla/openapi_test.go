package flotilla_test

import (
	"bytes"
	"encoding/json"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/go-chi/chi/v5"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/stitchfix/flotilla-os/api"
	"github.com/stitchfix/flotilla-os/flotilla"
)

// document is the OpenAPI document, and a router that finds the description of a request in it.
type document struct {
	content  map[string]any
	compiler *jsonschema.Compiler
	routes   *chi.Mux
	mu       *sync.Mutex
}

const documentName = "openapi.json"

var openAPIOnce = sync.OnceValues(readOpenAPI)

func openAPI(t testing.TB) document {
	t.Helper()
	d, err := openAPIOnce()
	require.NoError(t, err)
	return d
}

func readOpenAPI() (document, error) {
	raw, err := yaml.YAMLToJSON(api.OpenAPI)
	if err != nil {
		return document{}, err
	}
	var content map[string]any
	if err := json.Unmarshal(raw, &content); err != nil {
		return document{}, err
	}
	d := document{content: content, compiler: jsonschema.NewCompiler(), routes: chi.NewRouter(), mu: new(sync.Mutex)}
	for _, route := range flotilla.Routes() {
		d.routes.Method(route.Method, route.Pattern, http.NotFoundHandler())
	}
	return d, d.compiler.AddResource(documentName, content)
}

// pattern returns the route of a request, empty if there is none.
func (d document) pattern(method, escapedPath string) string {
	found := chi.NewRouteContext()
	if !d.routes.Match(found, method, escapedPath) {
		return ""
	}
	return found.RoutePattern()
}

// asObject returns the members of an object, none if v is no object.
func asObject(v any) map[string]any {
	m, _ := v.(map[string]any)
	return m
}

// at returns a member of the document.
func (d document) at(members ...string) map[string]any {
	at := d.content
	for _, name := range members {
		at = asObject(at[name])
	}
	return at
}

// response returns the JSON pointer to the document's description of an answer.
func (d document) response(pattern, method string, status int) (pointer []string) {
	pointer = []string{"paths", pattern, strings.ToLower(method), "responses", strconv.Itoa(status)}
	if d.at(pointer...) == nil {
		pointer[len(pointer)-1] = "default"
	}
	if ref, ok := d.at(pointer...)["$ref"].(string); ok {
		pointer = strings.Split(strings.TrimPrefix(ref, "#/"), "/")
	}
	return pointer
}

// hold fails the test if an answer does not match the OpenAPI document.
func (d document) hold(t testing.TB, r *http.Request, got answer) {
	t.Helper()
	assert.NotEmpty(t, got.header.Get("X-Request-Id"), "every answer has an id")
	kind, _, err := mime.ParseMediaType(got.header.Get("Content-Type"))
	if got.status == http.StatusNotModified || got.status == http.StatusNoContent || r.Method == http.MethodHead {
		return
	}
	require.NoError(t, err, "%s %s: %s", r.Method, r.URL, got.body)
	pattern := d.pattern(r.Method, r.URL.EscapedPath())
	if pattern == "" {
		d.validate(t, []string{"components", "schemas", "Error"}, got.body)
		return
	}
	pointer := append(d.response(pattern, r.Method, got.status), "content", kind)
	require.NotNil(t, d.at(pointer...), "%s %s answers %d %s, which the document does not say", r.Method, pattern, got.status, kind)
	if kind == "application/json" {
		assert.Equal(t, "application/json; charset=utf-8", got.header.Get("Content-Type"))
		d.validate(t, append(pointer, "schema"), got.body)
	}
}

// The compiler is not safe for concurrent use.
func (d document) compile(path string) (*jsonschema.Schema, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.compiler.Compile(path)
}

func (d document) validate(t testing.TB, pointer []string, body []byte) {
	t.Helper()
	escape := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D")
	path := documentName + "#"
	for _, name := range pointer {
		path += "/" + escape.Replace(name)
	}
	schema, err := d.compile(path)
	require.NoError(t, err)
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	require.NoError(t, err, "%s", body)
	assert.NoError(t, schema.Validate(value), "%s", body)
}

func TestTheOpenAPIDocumentAndTheRouterHaveTheSameRoutes(t *testing.T) {
	t.Parallel()
	d := openAPI(t)
	var documented, served []string
	for path, operations := range d.at("paths") {
		for method := range asObject(operations) {
			if method != "parameters" {
				documented = append(documented, strings.ToUpper(method)+" "+path)
			}
		}
	}
	for _, route := range flotilla.Routes() {
		served = append(served, route.Method+" "+route.Pattern)
	}
	assert.ElementsMatch(t, served, documented)
}

func TestTheOpenAPIDocumentDeclaresEveryPathParameter(t *testing.T) {
	t.Parallel()
	d := openAPI(t)
	for path := range d.at("paths") {
		var names []string
		parameters, _ := d.at("paths", path)["parameters"].([]any)
		for _, p := range parameters {
			parameter := asObject(p)
			if ref, ok := parameter["$ref"].(string); ok {
				parameter = d.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
			}
			require.NotNil(t, parameter, path)
			name, _ := parameter["name"].(string)
			names = append(names, name)
		}
		var wanted []string
		for part := range strings.SplitSeq(path, "/") {
			if strings.HasPrefix(part, "{") {
				wanted = append(wanted, strings.Trim(part, "{}"))
			}
		}
		assert.ElementsMatch(t, wanted, names, path)
	}
}

func TestTheOpenAPIDocumentIsServed(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	got := a.ok(t, http.MethodGet, "/api/openapi.json", "")
	assert.Equal(t, "3.1.0", got["openapi"])
	assert.Len(t, got["paths"], len(a.at("paths")))
}

func TestTheOpenAPIDocumentHasNoDanglingReference(t *testing.T) {
	t.Parallel()
	d := openAPI(t)
	raw, err := yaml.YAMLToJSON(api.OpenAPI)
	require.NoError(t, err)
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				require.NotNil(t, d.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...), ref)
			}
			for _, member := range v {
				walk(member)
			}
		case []any:
			for _, member := range v {
				walk(member)
			}
		}
	}
	var content any
	require.NoError(t, json.Unmarshal(raw, &content))
	walk(content)
	for name := range d.at("components", "schemas") {
		_, err := d.compile(documentName + "#/components/schemas/" + name)
		assert.NoError(t, err, name)
	}
}
