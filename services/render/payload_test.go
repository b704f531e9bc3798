package render

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

func TestMergePayload(t *testing.T) {
	t.Parallel()
	type object = map[string]any
	cases := map[string]struct{ defaults, payload, want state.Object }{
		"nothing over nothing":             {nil, nil, state.Object{}},
		"defaults alone":                   {state.Object{"a": 1}, nil, state.Object{"a": 1}},
		"the request wins":                 {state.Object{"a": 1, "b": 2}, state.Object{"a": 3}, state.Object{"a": 3, "b": 2}},
		"objects are merged deeply":        {state.Object{"o": object{"x": 1, "p": object{"y": 2}}}, state.Object{"o": object{"p": object{"z": 3}}}, state.Object{"o": object{"x": 1, "p": object{"y": 2, "z": 3}}}},
		"lists are replaced":               {state.Object{"l": []any{1, 2}}, state.Object{"l": []any{3}}, state.Object{"l": []any{3}}},
		"an object gives way to a text":    {state.Object{"o": object{"x": 1}}, state.Object{"o": "t"}, state.Object{"o": "t"}},
		"null is a value of the request's": {state.Object{"a": 1}, state.Object{"a": nil}, state.Object{"a": nil}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, state.Object(Merge(c.defaults, c.payload)))
		})
	}
}

func TestMergeLeavesTheDefaultsAlone(t *testing.T) {
	t.Parallel()
	defaults := state.Object{"o": map[string]any{"x": 1}}
	Merge(defaults, state.Object{"o": map[string]any{"x": 2}})
	assert.Equal(t, state.Object{"o": map[string]any{"x": 1}}, defaults)
}

func TestCheckPayload(t *testing.T) {
	t.Parallel()
	schema := state.Object{
		"type": "object", "required": []any{"table", "day"}, "additionalProperties": false,
		"properties": map[string]any{
			"table": map[string]any{"type": "string", "minLength": 3},
			"day":   map[string]any{"type": "string", "pattern": "^[0-9-]+$"},
			"rows":  map[string]any{"type": "integer", "minimum": 1},
		},
	}
	require.NoError(t, CheckPayload(schema, state.Object{"table": "sales", "day": "2026-01-01", "rows": int64(5)}))
	require.NoError(t, CheckPayload(schema, state.Object{"table": "sales", "day": "2026-01-01", "rows": 5.0}))
	require.NoError(t, CheckPayload(state.Object{}, nil))

	err := CheckPayload(schema, state.Object{"table": "x", "rows": 0, "extra": true})
	var malformed state.MalformedInput
	require.ErrorAs(t, err, &malformed)
	for _, violation := range []string{"day", "/table", "/rows", "extra"} {
		assert.Contains(t, malformed.Message, violation, "every violation is listed")
	}
}

func TestSchemasThatDoNotCompile(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		schema state.Object
		want   string
	}{
		"a type that does not exist": {state.Object{"type": "strin"}, "type"},
		"a pattern that is none":     {state.Object{"properties": map[string]any{"a": map[string]any{"pattern": "("}}}, "regex"},
		"a file beside":              {state.Object{"$ref": "other.json"}, "only refer to itself"},
		"a file of the server":       {state.Object{"$ref": "file:///etc/passwd"}, "only refer to itself"},
		"another server":             {state.Object{"$ref": "http://127.0.0.1:1/x"}, "only refer to itself"},
		"a definition that is not":   {state.Object{"$ref": "#/$defs/none"}, "none"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := compileSchema(c.schema)
			require.ErrorContains(t, err, c.want)
			folder, wdErr := os.Getwd()
			require.NoError(t, wdErr)
			assert.NotContains(t, err.Error(), folder, "the answer tells nothing of the server's files")
		})
	}
}

func TestSchemasMayReferToThemselves(t *testing.T) {
	t.Parallel()
	for name, schema := range map[string]state.Object{
		"a definition within": {"$defs": map[string]any{"n": map[string]any{"type": "integer"}}, "properties": map[string]any{"a": map[string]any{"$ref": "#/$defs/n"}}},
		"the old draft":       {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": map[string]any{"n": map[string]any{"type": "integer"}}, "properties": map[string]any{"a": map[string]any{"$ref": "#/definitions/n"}}},
		"a name of its own":   {"$id": "sales.json", "$defs": map[string]any{"n": map[string]any{"type": "integer"}}, "properties": map[string]any{"a": map[string]any{"$ref": "sales.json#/$defs/n"}}},
		"a tree":              {"properties": map[string]any{"child": map[string]any{"$ref": "#"}, "a": map[string]any{"type": "integer"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.NoError(t, CheckPayload(schema, state.Object{"a": 1}))
			require.Error(t, CheckPayload(schema, state.Object{"a": "x"}))
		})
	}
}

func TestCheckPayloadReadsNumbersExactly(t *testing.T) {
	t.Parallel()
	schema := state.Object{"properties": map[string]any{"n": map[string]any{"type": "integer", "maximum": json.Number("12345678901234567890")}}}
	require.NoError(t, CheckPayload(schema, state.Object{"n": json.Number("12345678901234567890")}))
	require.NoError(t, CheckPayload(schema, state.Object{"n": json.Number("5.0")}), "5.0 is an integer")
	require.Error(t, CheckPayload(schema, state.Object{"n": json.Number("12345678901234567891")}))
	require.Error(t, CheckPayload(schema, state.Object{"n": json.Number("1e400")}))
	require.Error(t, CheckPayload(schema, state.Object{"n": json.Number("1.10")}))
}

func TestCheckNumbers(t *testing.T) {
	t.Parallel()
	many := []any{}
	for range 3_000 {
		many = append(many, json.Number("1e999"))
	}
	for name, c := range map[string]struct {
		value any
		ok    bool
	}{
		"numbers as clients send them":  {state.Object{"a": json.Number("1e400"), "b": []any{json.Number("1.10"), json.Number("-0.5E-3")}}, true},
		"a huge exponent":               {state.Object{"a": json.Number("1e1000000000")}, false},
		"an exponent beyond int":        {state.Object{"a": json.Number("1e99999999999999999999")}, false},
		"a huge exponent of nearly 0":   {map[string]any{"a": []any{json.Number("1E-5000")}}, false},
		"a number of many digits":       {state.Object{"a": json.Number(strings.Repeat("9", 1_001))}, false},
		"many numbers with exponents":   {state.Object{"a": many}, false},
		"values that are no numbers":    {state.Object{"a": strings.Repeat("9", 5_000), "b": nil, "c": true}, true},
		"Go's own numbers, in defaults": {state.Object{"a": 1, "b": 1e300}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.ok, CheckNumbers(c.value) == nil)
		})
	}
}
