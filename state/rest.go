package state

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"
)

// What follows serves the MarshalJSON and UnmarshalJSON of the REST resources.

// utc is t in UTC, as every time in an answer (rest-api.md, General).
func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	return new(t.UTC())
}

// filled is nil for an empty text: members that are empty are omitted.
func filled(text *string) *string {
	if text == nil || *text == "" {
		return nil
	}
	return text
}

// UnmarshalJSON keeps whole numbers whole: read as floating point, 1000000
// would be rendered into a command as 1e+06.
func (o *Object) UnmarshalJSON(raw []byte) error {
	// A second look at what cannot be an object names it rightly in the error.
	if trimmed := bytes.TrimSpace(raw); len(trimmed) == 0 || trimmed[0] != '{' {
		return json.Unmarshal(raw, (*map[string]any)(o))
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	members := map[string]any{}
	if err := decoder.Decode(&members); err != nil {
		return err
	}
	exact, err := exactNumbers(members)
	if err != nil {
		return err
	}
	*o, _ = exact.(map[string]any) // an object stays one
	return nil
}

// exactNumbers replaces the numbers within v: whole ones by int64 where they
// fit, others by float64.
func exactNumbers(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case json.Number:
		return exactNumber(v)
	case map[string]any:
		for name := range v {
			if v[name], err = exactNumbers(v[name]); err != nil {
				return nil, err
			}
		}
	case []any:
		for i := range v {
			if v[i], err = exactNumbers(v[i]); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}

func exactNumber(n json.Number) (any, error) {
	if !strings.ContainsAny(n.String(), ".eE") {
		if whole, err := n.Int64(); err == nil {
			return whole, nil
		}
	}
	f, err := n.Float64()
	if err != nil {
		return nil, MalformedInput{Message: "The number " + n.String() + " is too large."}
	}
	return f, nil
}
