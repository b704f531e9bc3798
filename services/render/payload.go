// Package render makes a run's command from a template: it merges the payload of a request over the template's
// defaults, checks it against the template's JSON Schema, and renders the command within a budget (rest-api.md,
// "Template"). Numbers of a payload are json.Number throughout, so that a command holds them as they were sent.
package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/stitchfix/flotilla-os/state"
)

// Merge returns payload over defaults: objects are merged member by member, anything else is replaced. It changes
// neither.
func Merge(defaults, payload map[string]any) map[string]any {
	merged := make(map[string]any, len(defaults)+len(payload))
	maps.Copy(merged, defaults)
	for name, value := range payload {
		over, isObject := value.(map[string]any)
		under, wasObject := merged[name].(map[string]any)
		if isObject && wasObject {
			value = Merge(under, over)
		}
		merged[name] = value
	}
	return merged
}

const (
	// maxDigits bounds the digits of a number, with those that its exponent stands for.
	maxDigits = 1_000
	// maxExponents bounds the digits that all exponents of one value stand for: Postgres writes 1e400 out.
	maxExponents = 1 << 20
)

// CheckNumbers returns an error if a value of JSON holds a number that is too long to be compared and stored.
func CheckNumbers(value any) error {
	written := 0
	return checkNumbers(value, &written)
}

func checkNumbers(value any, written *int) error {
	switch v := value.(type) {
	case json.Number:
		exponent := 0
		if at := strings.IndexAny(v.String(), "eE"); at >= 0 {
			n, err := strconv.Atoi(v.String()[at+1:])
			if err != nil {
				n = maxDigits + 1
			}
			exponent = max(n, -n)
		}
		*written += exponent
		if len(v)+exponent > maxDigits || *written > maxExponents {
			return fmt.Errorf("the number %s is too long", state.Shorten(v.String(), maxDigits))
		}
	case state.Object:
		return checkNumbers(map[string]any(v), written)
	case map[string]any:
		for _, member := range v {
			if err := checkNumbers(member, written); err != nil {
				return err
			}
		}
	case []any:
		for _, item := range v {
			if err := checkNumbers(item, written); err != nil {
				return err
			}
		}
	}
	return nil
}

// CheckSchema returns an error if schema is no JSON Schema (2020-12 unless it names another draft).
func CheckSchema(schema map[string]any) error {
	_, err := compileSchema(schema)
	return err
}

// noLoader refuses every document that a schema points to: a schema must not make the server read files or the network.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("a schema may only refer to itself, not to %s", url)
}

// schemaURL names the schema inside the compiler, and in its messages. A relative name would stand for a file in the
// server's working folder.
const schemaURL = "flotilla:///schema"

func compileSchema(schema map[string]any) (*jsonschema.Schema, error) {
	document, err := jsonDocument(schema)
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

// CheckPayload returns a state.MalformedInput that lists every violation if payload does not match schema.
func CheckPayload(schema, payload map[string]any) error {
	compiled, err := compileSchema(schema)
	if err != nil {
		return state.Malformedf("the template's schema does not compile: %s", state.Shorten(err.Error(), maxSentence))
	}
	document, err := jsonDocument(payload)
	if err != nil {
		return state.Malformedf("template_payload is not valid JSON: %s", err)
	}
	err = compiled.Validate(document)
	if err == nil {
		return nil
	}
	violation := &jsonschema.ValidationError{}
	if !errors.As(err, &violation) {
		return state.Malformedf("cannot check template_payload by the template's schema: %s", err)
	}
	var violations []string
	for _, unit := range violation.BasicOutput().Errors {
		if unit.Error == nil {
			continue
		}
		place := unit.InstanceLocation
		if place == "" {
			place = "/"
		}
		violations = append(violations, state.Shorten(fmt.Sprintf("at '%s': %s", place, unit.Error), maxSentence))
	}
	slices.Sort(violations)
	return state.Malformedf("template_payload does not match the template's schema: %s", strings.Join(slices.Compact(violations), "; "))
}

// maxSentence bounds the description of one fault, in bytes.
const maxSentence = 1_000

// jsonDocument returns a value in the form that the schema library takes.
func jsonDocument(value map[string]any) (any, error) {
	raw, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(raw))
}
