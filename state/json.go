package state

import (
	"bytes"
	"context"
	"database/sql/driver"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// EnvVar is one environment variable of a definition or a run.
type EnvVar struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// EnvList is an environment in the order in which it was given. Of two variables with one name the later counts.
type EnvList []EnvVar

// Value implements driver.Valuer.
func (e EnvList) Value() (driver.Value, error) { return valueJSON([]EnvVar(e)) }

// Labels are a run's own labels.
type Labels map[string]string

// Value implements driver.Valuer.
func (l Labels) Value() (driver.Value, error) { return valueJSON(map[string]string(l)) }

// Object is a JSON object whose members Flotilla does not know.
type Object map[string]any

// UnmarshalJSON keeps numbers as json.Number, so that a command rendered from them holds the digits that were sent.
func (o *Object) UnmarshalJSON(raw []byte) error {
	// For what is no object, the error names the right type only this way.
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

// Value implements driver.Valuer.
func (o Object) Value() (driver.Value, error) { return valueJSON(map[string]any(o)) }

// Strings is a JSON array of strings.
type Strings []string

// Value implements driver.Valuer.
func (s Strings) Value() (driver.Value, error) { return valueJSON([]string(s)) }

// Ports are the ports that a container opens.
type Ports []int64

// Value implements driver.Valuer.
func (p Ports) Value() (driver.Value, error) { return valueJSON([]int64(p)) }

// jsonColumn is a jsonb column as it was read, and a pointer to the field that it is read into.
type jsonColumn struct {
	name string
	raw  []byte
	dst  any
}

// maxOddLogged bounds the memory of what was logged.
const maxOddLogged = 10_000

// readColumns reads the jsonb columns of the row called id, see readJSON. It logs each odd one once; idKey is the key
// of the row's id in the log.
func (m *Manager) readColumns(ctx context.Context, idKey, id string, columns ...jsonColumn) {
	for _, c := range columns {
		if !readJSON(c.dst, c.raw) {
			continue
		}
		place := idKey + " " + id + " " + c.name
		m.oddMu.Lock()
		known := m.oddLogged[place] || len(m.oddLogged) >= maxOddLogged
		if !known {
			m.oddLogged[place] = true
		}
		m.oddMu.Unlock()
		if !known {
			m.logger.WarnContext(ctx, "JSON of an unexpected shape was read as far as possible", idKey, id, "column", c.name)
		}
	}
}

// readJSON reads raw into dst, a pointer, whatever its shape: one odd row must not fail the list, the claim or the
// review that holds it. Numbers and booleans become text if dst holds text, and what cannot be read is left out. SQL
// NULL and JSON null leave the zero value. It reports whether the shape was odd.
func readJSON(dst any, raw []byte) (odd bool) {
	v := reflect.ValueOf(dst).Elem()
	v.SetZero()
	if len(raw) == 0 {
		return false
	}
	if err := json.Unmarshal(raw, dst); err != nil {
		odd = true
		v.SetZero()
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.UseNumber()
		var value any
		if err := decoder.Decode(&value); err != nil || !coerce(v, value) {
			v.SetZero()
		}
	}
	if env, ok := dst.(*EnvList); ok {
		n := len(*env)
		*env = slices.DeleteFunc(*env, func(v EnvVar) bool { return v.Name == "" })
		odd = odd || len(*env) < n
	}
	return odd
}

// coerce stores what can be read of value in dst, and reports whether that is anything.
func coerce(dst reflect.Value, value any) bool {
	if value == nil {
		dst.SetZero()
		return true
	}
	if at, ok := dst.Addr().Interface().(*time.Time); ok {
		text, _ := value.(string)
		parsed, err := time.Parse(time.RFC3339, text)
		*at = parsed
		return err == nil
	}
	switch dst.Kind() {
	case reflect.Pointer:
		target := reflect.New(dst.Type().Elem())
		if !coerce(target.Elem(), value) {
			return false
		}
		dst.Set(target)
		return true
	case reflect.Interface:
		dst.Set(reflect.ValueOf(value))
		return true
	case reflect.Slice:
		items, ok := value.([]any)
		for _, item := range items {
			element := reflect.New(dst.Type().Elem()).Elem()
			if item != nil && coerce(element, item) {
				dst.Set(reflect.Append(dst, element))
			}
		}
		return ok
	case reflect.Map:
		members, ok := value.(map[string]any)
		dst.Set(reflect.MakeMap(dst.Type()))
		for name, member := range members {
			element := reflect.New(dst.Type().Elem()).Elem()
			if coerce(element, member) {
				dst.SetMapIndex(reflect.ValueOf(name), element)
			}
		}
		return ok
	case reflect.Struct:
		members, ok := value.(map[string]any)
		for i := range dst.NumField() {
			name, _, _ := strings.Cut(dst.Type().Field(i).Tag.Get("json"), ",")
			for member, inner := range members {
				if name != "" && strings.EqualFold(name, member) && !coerce(dst.Field(i), inner) {
					dst.Field(i).SetZero()
				}
			}
		}
		return ok
	}
	var text string
	switch v := value.(type) {
	case string:
		text = v
	case json.Number:
		text = v.String()
	case bool:
		text = strconv.FormatBool(v)
	default:
		return false
	}
	switch dst.Kind() {
	case reflect.String:
		dst.SetString(text)
		return true
	case reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		dst.SetInt(n)
		return err == nil
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		dst.SetBool(b)
		return err == nil
	}
	return false
}

// valueJSON returns v for a jsonb column, JSON null as SQL NULL.
func valueJSON(v any) (driver.Value, error) {
	raw, err := json.Marshal(v)
	if err != nil || string(raw) == "null" {
		return nil, err
	}
	return string(raw), nil
}

// unmarshalKeeping reads an object into dst, a pointer to a struct, and returns the members that the struct does not
// name (regardless of case), so that marshalKeeping can write them back.
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

// marshalKeeping returns the JSON of the struct v with the members extra.
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
