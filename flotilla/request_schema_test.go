package flotilla_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/flotilla"
)

// requestSchema returns the document's description of a route's body: an object's
// members, or those of the objects in an array.
func requestSchema(t testing.TB, d document, route flotilla.Route) (properties map[string]map[string]any, required []string, isArray bool) {
	t.Helper()
	schema := d.at("paths", route.Pattern, strings.ToLower(route.Method), "requestBody", "content", "application/json", "schema")
	require.NotNil(t, schema, "%s %s", route.Method, route.Pattern)
	properties = map[string]map[string]any{}
	var collect func(schema map[string]any)
	collect = func(schema map[string]any) {
		if ref, ok := schema["$ref"].(string); ok {
			collect(d.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...))
		}
		if items, ok := schema["items"].(map[string]any); ok {
			isArray = true
			collect(items)
		}
		parts, _ := schema["allOf"].([]any)
		for _, part := range parts {
			collect(asObject(part))
		}
		members, _ := schema["properties"].(map[string]any)
		for name, property := range members {
			properties[name] = resolved(d, asObject(property))
		}
		names, _ := schema["required"].([]any)
		for _, name := range names {
			text, _ := name.(string)
			required = append(required, text)
		}
	}
	collect(schema)
	if properties["template_payload"] != nil {
		// The templates of the rows need one.
		required = append(required, "template_payload")
	}
	return properties, required, isArray
}

func resolved(d document, schema map[string]any) map[string]any {
	if ref, ok := schema["$ref"].(string); ok {
		return d.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	}
	return schema
}

// values of required members.
var required = map[string]any{
	"alias": "made by a bad request", "image": "i", "name": "made by a bad request", "region": "r", "template_name": "made by a bad request",
	"schema": map[string]any{}, "command_template": "true", "owner_id": "ann", "status": "RUNNING", "worker_type": "submit",
	"count_per_instance": 1, "template_payload": map[string]any{"name": "x"}, "run_tags": map[string]any{"owner_id": "ann", "owner_email": "ann", "team_name": "a"},
}

func body(t testing.TB, isArray bool, members map[string]any) string {
	t.Helper()
	var value any = members
	if isArray {
		value = []any{members}
	}
	raw, err := json.Marshal(value)
	require.NoError(t, err)
	return string(raw)
}

func validBody(t testing.TB, d document, route flotilla.Route) string {
	t.Helper()
	_, names, isArray := requestSchema(t, d, route)
	members := map[string]any{}
	for _, name := range names {
		members[name] = required[name]
	}
	return body(t, isArray, members)
}

// wrong lists values that a member of that schema cannot have.
func wrong(schema map[string]any) []any {
	types, _ := schema["type"].([]any)
	if one, ok := schema["type"].(string); ok {
		types = []any{one}
	}
	is := func(name string) bool { return slices.Contains(types, any(name)) }
	var values []any
	if !is("object") && schema["anyOf"] == nil {
		values = append(values, map[string]any{"x": 1})
	}
	if !is("array") {
		values = append(values, []any{1})
	}
	if !is("string") && schema["enum"] == nil {
		values = append(values, "text")
	}
	if !is("boolean") {
		values = append(values, true)
	}
	if is("integer") {
		values = append(values, 1.5, json.Number("99999999999999999999"), json.Number("-99999999999999999999"), json.Number("1e400"), json.Number("2147483648"))
		if schema["minimum"] != nil {
			values = append(values, -1)
		}
	} else {
		values = append(values, 7)
	}
	if schema["enum"] != nil {
		values = append(values, "a word that is not one of them", "'; drop table task; --")
	}
	return values
}
