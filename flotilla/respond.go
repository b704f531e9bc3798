package flotilla

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
)

const (
	typeJSON        = "application/json; charset=utf-8"
	typePlainText   = "text/plain; charset=utf-8"
	typeYAML        = "text/yaml; charset=utf-8"
	typeEventStream = "text/event-stream; charset=utf-8"
)

// writeJSON answers 200 with v. Nothing is written where v cannot be encoded.
func writeJSON(w http.ResponseWriter, v any) error {
	return writeJSONStatus(w, http.StatusOK, v)
}

func writeJSONStatus(w http.ResponseWriter, status int, v any) error {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return err
	}
	return writeBody(w, status, typeJSON, body.Bytes())
}

func writeBody(w http.ResponseWriter, status int, contentType string, body []byte) error {
	header := w.Header()
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, err := w.Write(body) //nolint:gosec // Never HTML: the type is set, and browsers may not guess another.
	return err
}

// Answers that only say that something was done.
type (
	deletedAnswer struct {
		Deleted bool `json:"deleted"`
	}
	createdAnswer struct {
		Created bool `json:"created"`
	}
	updatedAnswer struct {
		Updated bool `json:"updated"`
	}
	terminatedAnswer struct {
		Terminated bool `json:"terminated"`
	}
)
