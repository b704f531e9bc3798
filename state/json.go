package state

import (
	"bytes"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// scanJSON reads a jsonb column into dst, a pointer. SQL NULL and JSON null
// both leave the zero value: absent is absent, whoever wrote it.
func scanJSON[T any](dst *T, src any) error {
	var zero T
	*dst = zero
	switch v := src.(type) {
	case nil:
		return nil
	case []byte:
		return json.Unmarshal(v, dst)
	case string:
		return json.Unmarshal([]byte(v), dst)
	}
	return fmt.Errorf("jsonb column holds a %T", src)
}

// valueJSON writes v for a jsonb column, JSON null as SQL NULL.
func valueJSON(v any) (driver.Value, error) {
	raw, err := json.Marshal(v)
	if err != nil || string(raw) == "null" {
		return nil, err
	}
	return string(raw), nil
}

// unmarshalKeeping reads an object into dst, a pointer to a struct, and
// returns the members that the struct does not name (regardless of case), so
// that marshalKeeping can write them back.
func unmarshalKeeping(raw []byte, dst any) (map[string]json.RawMessage, error) {
	if err := json.Unmarshal(raw, dst); err != nil {
		return nil, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil, err
	}
	known := map[string]bool{}
	t := reflect.TypeOf(dst).Elem()
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		known[strings.ToLower(name)] = true
	}
	for name := range members {
		if known[strings.ToLower(name)] {
			delete(members, name)
		}
	}
	if len(members) == 0 {
		return nil, nil
	}
	return members, nil
}

// marshalKeeping writes the struct v and the members that it does not name.
func marshalKeeping(v any, extra map[string]json.RawMessage) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil || len(extra) == 0 {
		return raw, err
	}
	more, err := json.Marshal(extra)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(raw, []byte("{}")) {
		return more, nil
	}
	joined := append(raw[:len(raw)-1:len(raw)-1], ',')
	return append(joined, more[1:]...), nil
}
