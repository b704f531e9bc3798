package flotilla

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"reflect"
	"strings"

	"github.com/stitchfix/flotilla-os/state"
)

const (
	// maxBodyBytes is the largest request body, 10 MiB (rest-api.md, General).
	maxBodyBytes = 10 << 20
	// maxNesting is the deepest nesting of a request body; Postgres' JSON
	// parser gives up some thousands of levels further.
	maxNesting = 200
)

func limitBody(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
}

// readBody reads the whole body, at most maxBodyBytes.
func readBody(r *http.Request) ([]byte, error) {
	if r.ContentLength > maxBodyBytes {
		return nil, bodyTooLarge()
	}
	raw, err := io.ReadAll(r.Body)
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return raw, nil
	case errors.As(err, &tooLarge):
		return nil, bodyTooLarge()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, state.Malformedf("the request body did not arrive in time")
	}
	return nil, state.Malformedf("the request body could not be read: %v", err)
}

func bodyTooLarge() error {
	return httpError{http.StatusRequestEntityTooLarge, "the request body is larger than 10 MiB"}
}

// decodeBody reads a JSON body into dst. Members that dst does not name are
// ignored; a NUL character in any text is not.
func decodeBody(r *http.Request, dst any) error {
	raw, err := readBody(r)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return state.Malformedf("the request has no body, where JSON is needed")
	}
	if err := decodeJSON(raw, dst); err != nil {
		return err
	}
	return checkTexts(raw)
}

// decodeTaken reads an object into dst, and is blind to every member that
// dst does not name: those may hold anything. No body reads as {}.
func decodeTaken(r *http.Request, dst any) error {
	raw, err := readBody(r)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil
	}
	if err := decodeJSON(raw, dst); err != nil {
		return err
	}
	taken, err := json.Marshal(dst)
	if err != nil {
		return err
	}
	return checkTexts(taken)
}

func decodeJSON(raw []byte, dst any) error {
	if string(bytes.TrimSpace(raw)) == "null" {
		return state.Malformedf("the request body is null, where %s is needed", kindOf(reflect.TypeOf(dst).Elem()))
	}
	err := json.Unmarshal(raw, dst)
	var wrongType *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrongType):
		return wrongTypeError(wrongType, reflect.TypeOf(dst).Elem())
	}
	return state.Malformedf("the request body is not valid JSON: %v", err)
}

func wrongTypeError(err *json.UnmarshalTypeError, body reflect.Type) error {
	field := "the request body"
	if path := sentPath(body, err.Field); path != "" {
		field = "the field " + clip(path)
	}
	return state.Malformedf("%s must be %s, not %s", field, kindOf(err.Type), clip(described(err.Value)))
}

// sentPath is the path of a member as the client wrote it: encoding/json also
// names the struct that is embedded in body and holds the member.
func sentPath(body reflect.Type, path string) string {
	if body.Kind() != reflect.Struct {
		return path
	}
	first, rest, _ := strings.Cut(path, ".")
	if field, ok := body.FieldByName(first); ok && field.Anonymous {
		return rest
	}
	return path
}

// described adds the article to the name of a kind of JSON value.
func described(value string) string {
	switch kind, rest, _ := strings.Cut(value, " "); {
	case rest != "":
		return "the " + kind + " " + rest
	case kind == "array" || kind == "object":
		return "an " + kind
	default:
		return "a " + kind
	}
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

// checkTexts refuses valid JSON that holds a NUL character in any text, or
// nests deeper than maxNesting. A NUL can only be written as an escape.
func checkTexts(raw []byte) error {
	depth, inText := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case inText && c == '\\':
			if bytes.HasPrefix(raw[i+1:], []byte("u0000")) {
				return state.Malformedf(`the request body holds a NUL character (\u0000), which cannot be stored`)
			}
			i++
		case c == '"':
			inText = !inText
		case inText:
		case c == '{' || c == '[':
			if depth++; depth > maxNesting {
				return state.Malformedf("the request body is nested more than %d levels deep", maxNesting)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}
