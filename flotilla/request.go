package flotilla

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"

	"github.com/stitchfix/flotilla-os/services"
	"github.com/stitchfix/flotilla-os/state"
)

// This file is the one place that checks the texts of requests: addresses and bodies that reach a handler are UTF-8
// without NUL.

const (
	// maxBodyBytes is the largest request body, 10 MiB (rest-api.md, General).
	maxBodyBytes = 10 << 20
	// maxDrainBytes is how much more is read and dropped before a refusal, so
	// that the answer reaches a client that sends first and reads afterwards.
	maxDrainBytes = 64 << 20
	// maxNesting is the deepest nesting of a request body; Postgres' JSON
	// parser gives up some thousands of levels further.
	maxNesting = 200
	// maxDigits bounds numbers and their exponents: Postgres stores a number with all its digits.
	maxDigits = 1000
	// maxIgnored bounds how many ignored fields a warning names.
	maxIgnored = 20
	// maxQuoted bounds the part of a caller's text that an answer repeats, in bytes.
	maxQuoted = 100
)

// readJSON reads a JSON body into dst, a pointer to a type of package api, and returns the members that were sent, by
// their names in the type of dst. Members that dst has no field for are ignored and named in a Warning header.
func readJSON(w http.ResponseWriter, r *http.Request, dst any) (sent map[string]any, err error) {
	raw, err := readBody(r)
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil, state.Malformedf("the request has no body, but needs one in JSON")
	}
	return parse(w, raw, dst, false)
}

// readTaken reads a JSON body like readJSON, except that it does not check members that dst has no field for, and that an
// empty body means {}.
func readTaken(w http.ResponseWriter, r *http.Request, dst any) error {
	raw, err := readBody(r)
	if err != nil || len(bytes.TrimSpace(raw)) == 0 {
		return err
	}
	_, err = parse(w, raw, dst, true)
	return err
}

func parse(w http.ResponseWriter, raw []byte, dst any, blind bool) (map[string]any, error) {
	if !utf8.Valid(raw) {
		return nil, state.Malformedf("the request body is not valid UTF-8")
	}
	if err := decodeInto(raw, dst, ""); err != nil {
		return nil, err
	}
	if hasLoneSurrogate(raw) {
		return nil, state.Malformedf(`the request body holds half of a surrogate pair (\ud800 to \udfff), which is no character`)
	}
	var tree any
	if err := decodeInto(raw, &tree, ""); err != nil {
		return nil, err
	}
	look := inspection{blind: blind}
	if err := look.value(tree, reflect.TypeOf(dst).Elem(), "", 0); err != nil {
		return nil, err
	}
	if len(look.ignored) > 0 {
		slices.Sort(look.ignored)
		warn(w, "ignored fields: "+strings.Join(look.ignored, ", "))
	}
	sent := map[string]any{}
	if members, ok := tree.(map[string]any); ok {
		for name, value := range members {
			if field := fieldOf(reflect.TypeOf(dst).Elem(), name); field.name != "" {
				sent[field.name] = value
			}
		}
	}
	return sent, nil
}

// readBody reads the whole body, at most maxBodyBytes.
func readBody(r *http.Request) ([]byte, error) {
	tooLarge := httpError{http.StatusRequestEntityTooLarge, "the request body is larger than 10 MiB"}
	if r.ContentLength > maxBodyBytes {
		return nil, tooLarge
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxBodyBytes+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, state.Malformedf("the request body did not arrive in time")
	case err != nil:
		return nil, state.Malformedf("cannot read the request body: %v", err)
	case len(raw) > maxBodyBytes:
		return nil, tooLarge
	}
	return raw, nil
}

// drain reads and drops what is left of a body that will not be served. A
// client that waits for "100 Continue" has sent nothing yet.
func drain(r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Expect"), "100-continue") {
		_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, maxDrainBytes))
	}
}

// decodeInto decodes JSON with its numbers as they were written. field is the
// place of raw in the request body, empty for all of it.
func decodeInto(raw []byte, dst any, field string) error {
	body := reflect.TypeOf(dst).Elem()
	if field == "" && body.Kind() != reflect.Interface && string(bytes.TrimSpace(raw)) == "null" {
		return state.Malformedf("the request body is null, but %s is needed", kindOf(body))
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	err := decoder.Decode(dst)
	if wrongType := (&json.UnmarshalTypeError{}); errors.As(err, &wrongType) {
		return wrongTypeError(wrongType, body, field)
	}
	if err == nil {
		if _, err = decoder.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.New("more follows its value")
	}
	return state.Malformedf("the request body is not valid JSON: %v", err)
}

// wrongTypeError names the field as the client wrote it: encoding/json also
// names the structs that are embedded in body.
func wrongTypeError(err *json.UnmarshalTypeError, body reflect.Type, field string) error {
	path := strings.Split(err.Field, ".")
	for body.Kind() == reflect.Struct {
		embedded, ok := body.FieldByName(path[0])
		if !ok || !embedded.Anonymous {
			break
		}
		path, body = path[1:], embedded.Type
	}
	name := strings.Trim(field+"."+strings.Join(path, "."), ".")
	if name == "" {
		name = "request body"
	} else {
		name = "field " + state.Shorten(name, maxQuoted)
	}
	kind, rest, _ := strings.Cut(err.Value, " ")
	switch {
	case rest != "":
		kind = "the " + kind + " " + rest
	case kind == "array" || kind == "object":
		kind = "an " + kind
	default:
		kind = "a " + kind
	}
	return state.Malformedf("the %s must be %s, not %s", name, kindOf(err.Type), state.Shorten(kind, maxQuoted))
}

// kindOf names what a Go type is in JSON.
func kindOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return kindOf(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "an array"
	}
	return "an object"
}

// hasLoneSurrogate reports whether valid JSON escapes half of a surrogate
// pair, which encoding/json would replace by U+FFFD.
func hasLoneSurrogate(raw []byte) bool {
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return false
		}
		raw = raw[i:]
		unit, next := utf16Unit(raw)
		switch {
		case unit < 0xD800 || unit > 0xDFFF:
			raw = raw[2:] // An escape that is no surrogate, or not of a code.
			continue
		case unit >= 0xDC00 || next < 0xDC00 || next > 0xDFFF:
			return true
		}
		raw = raw[12:]
	}
}

// utf16Unit returns the code of the \uXXXX escape that raw begins with and of
// the one that follows it, 0 if there is none.
func utf16Unit(raw []byte) (unit, next uint64) {
	code := func(at int) uint64 {
		if len(raw) < at+6 || raw[at] != '\\' || raw[at+1] != 'u' {
			return 0
		}
		n, _ := strconv.ParseUint(string(raw[at+2:at+6]), 16, 32)
		return n
	}
	return code(0), code(6)
}

// inspection checks a decoded body against the type that it was decoded into.
type inspection struct {
	// blind inspections do not look into members that are ignored.
	blind bool
	// ignored names the members without a field.
	ignored []string
}

// value inspects a value that was decoded into a t. t is nil for a value of any shape.
func (c *inspection) value(v any, t reflect.Type, path string, depth int) error {
	if depth > maxNesting {
		return state.Malformedf("the request body is nested more than %d levels deep", maxNesting)
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var within reflect.Type // of the elements
	if t != nil && t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8 {
		within = t.Elem()
	}
	switch v := v.(type) {
	case string:
		return storableField(path, v)
	case json.Number:
		_, exponent, _ := strings.Cut(strings.ToLower(v.String()), "e")
		n, err := strconv.Atoi(cmp.Or(exponent, "0"))
		if err != nil || max(n, -n, len(v)) > maxDigits {
			return state.Malformedf("the number %s has too many digits", state.Shorten(v.String(), maxQuoted))
		}
	case []any:
		for _, item := range v {
			if err := c.value(item, within, path, depth+1); err != nil {
				return err
			}
		}
	case map[string]any:
		for name, member := range v {
			place := strings.TrimPrefix(path+"."+name, ".")
			within := within
			if t != nil && t.Kind() == reflect.Struct {
				field := fieldOf(t, name)
				within = field.typ
				if field.name == "" && len(c.ignored) < maxIgnored {
					c.ignored = append(c.ignored, state.Shorten(place, maxQuoted)+meant(t, name))
				}
				if field.name == "" && c.blind {
					continue
				}
			}
			if err := storableField(place, name); err != nil {
				return err
			}
			if err := c.value(member, within, place, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

func storableField(place, text string) error {
	if storable(text) {
		return nil
	}
	return state.Malformedf(`the field %q holds a NUL character (\u0000), which cannot be stored`, state.Shorten(place, maxQuoted))
}

// jsonField is a field of a struct by its name in JSON.
type jsonField struct {
	name string
	typ  reflect.Type
}

// knownFields caches what jsonFields returns.
var knownFields sync.Map

func jsonFields(t reflect.Type) (fields []jsonField) {
	if known, ok := knownFields.Load(t); ok {
		fields, _ = known.([]jsonField) // nothing else is stored
		return fields
	}
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && !f.Anonymous {
			fields = append(fields, jsonField{name, f.Type})
		}
	}
	knownFields.Store(t, fields)
	return fields
}

// fieldOf returns the field of a member, regardless of case; the zero jsonField if there is none.
func fieldOf(t reflect.Type, member string) jsonField {
	if t.Kind() == reflect.Struct {
		for _, f := range jsonFields(t) {
			if strings.EqualFold(f.name, member) {
				return f
			}
		}
	}
	return jsonField{}
}

// meant returns a suggestion of the field of t that an unknown member probably stands for: one with the same beginning,
// or one that differs in few letters.
func meant(t reflect.Type, member string) string {
	member = strings.ToLower(member)
	best, least := "", len(member)/4+2
	for _, f := range jsonFields(t) {
		if len(member) > 2 && len(f.name) > 2 && (strings.HasPrefix(f.name, member) || strings.HasPrefix(member, f.name)) {
			return fmt.Sprintf(" (did you mean %s?)", f.name)
		}
		if d := distance(member, f.name); d < least {
			best, least = f.name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", best)
}

// distance returns the Levenshtein distance of two names, or more than any
// name's length if they differ too much in theirs.
func distance(a, b string) int {
	if len(a) > 2*len(b) || len(b) > 2*len(a) {
		return len(a) + len(b)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// checkAddress refuses paths and queries with texts that Postgres cannot store.
func checkAddress(r *http.Request) error {
	if !storable(r.URL.Path) {
		return state.Malformedf("the path holds a NUL character or is not UTF-8")
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return state.Malformedf("cannot read the query string: %v", err)
	}
	for name, values := range query {
		if !storable(name) || slices.ContainsFunc(values, func(text string) bool { return !storable(text) }) {
			return state.Malformedf("the query parameter %q holds a NUL character or is not UTF-8", state.Shorten(name, maxQuoted))
		}
	}
	return nil
}

// storable reports whether Postgres can hold s as text.
func storable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// pathParam returns a parameter of the path, percent-decoded once.
func pathParam(r *http.Request, name string) string {
	// The escapes are valid: net/http has parsed the same path before.
	value, _ := url.PathUnescape(chi.URLParam(r, name))
	return value
}

// definitionRef returns the definition that the path names by id or alias.
func definitionRef(r *http.Request) services.DefinitionRef {
	return services.DefinitionRef{ID: pathParam(r, "definition_id"), Alias: pathParam(r, "alias")}
}
