package services

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/stitchfix/flotilla-os/state"
)

// templateExecutable is a template with the payload of one run.
type templateExecutable struct {
	state.Template
	payload state.Object
	clock   func() time.Time
}

// GetExecutableCommand renders the template with the payload.
func (t templateExecutable) GetExecutableCommand(state.ExecutionRequest) (string, error) {
	command, err := renderCommand(t.CommandTemplate, t.payload, t.clock)
	if err != nil {
		return "", state.Malformedf("the template cannot be rendered: %s", shorten(err.Error()))
	}
	return command, nil
}

// mergePayload is the request's payload over the template's defaults: objects
// are merged member by member, anything else is replaced.
func mergePayload(defaults, payload state.Object) state.Object {
	return mergeObjects(defaults, payload)
}

func mergeObjects(under, over map[string]any) map[string]any {
	merged := make(map[string]any, len(under)+len(over))
	maps.Copy(merged, under)
	for name, value := range over {
		upper, isObject := value.(map[string]any)
		lower, wasObject := merged[name].(map[string]any)
		if isObject && wasObject {
			value = mergeObjects(lower, upper)
		}
		merged[name] = value
	}
	return merged
}

// noLoader refuses every document that a schema points to: a schema must not
// make the server read files or the network.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("a schema may only refer to itself, not to %s", url)
}

// schemaURL names the schema inside the compiler, and in its messages. A
// relative name would stand for a file in the server's working folder.
const schemaURL = "flotilla:///schema"

// compileSchema compiles a JSON Schema (2020-12 where it names no draft).
func compileSchema(schema state.Object) (*jsonschema.Schema, error) {
	document, err := jsonDocument(map[string]any(schema))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noLoader{})
	if err := compiler.AddResource(schemaURL, document); err != nil {
		return nil, err
	}
	return compiler.Compile(schemaURL)
}

// checkPayload holds a payload against a schema; the error is a
// state.MalformedInput that lists every violation.
func checkPayload(schema, payload state.Object) error {
	compiled, err := compileSchema(schema)
	if err != nil {
		return state.Malformedf("the template's schema does not compile: %s", shorten(err.Error()))
	}
	document, err := jsonDocument(map[string]any(payload))
	if err != nil {
		return state.Malformedf("template_payload is not valid JSON: %s", err)
	}
	err = compiled.Validate(document)
	if err == nil {
		return nil
	}
	violation := &jsonschema.ValidationError{}
	if !errors.As(err, &violation) {
		return state.Malformedf("template_payload cannot be held against the schema: %s", err)
	}
	return state.Malformedf("template_payload does not match the template's schema: %s", strings.Join(violations(violation), "; "))
}

// violations lists what is wrong with a payload, each with its place.
func violations(e *jsonschema.ValidationError) []string {
	var out []string
	for _, unit := range e.BasicOutput().Errors {
		if unit.Error == nil {
			continue
		}
		place := unit.InstanceLocation
		if place == "" {
			place = "/"
		}
		out = append(out, shorten(fmt.Sprintf("at '%s': %s", place, unit.Error)))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// jsonDocument is a value as the schema library wants it.
func jsonDocument(value any) (any, error) {
	raw, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(raw))
}

// largestExact is the largest float64 below which every whole number is exact.
const largestExact = 1 << 53

// forTemplate copies a value for a template, which may change what it is given,
// and makes whole numbers integers: of 1e6 a template would print 1e+06.
func forTemplate(value any) any {
	switch v := value.(type) {
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < largestExact {
			return int64(v)
		}
	case state.Object:
		return forTemplate(map[string]any(v))
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, member := range v {
			out[name] = forTemplate(member)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = forTemplate(item)
		}
		return out
	}
	return value
}
