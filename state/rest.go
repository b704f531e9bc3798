package state

import (
	"bytes"
	"encoding/json"
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

// UnmarshalJSON keeps numbers as they were sent, as json.Number: a command that is rendered from them holds the same
// digits.
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
	*o = members
	return nil
}
