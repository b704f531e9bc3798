package flotilla

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/stitchfix/flotilla-os/api"
	"github.com/stitchfix/flotilla-os/services"
	"github.com/stitchfix/flotilla-os/state"
)

// Query parameters of the log.
const (
	paramLastSeen = "last_seen"
	paramRawText  = "raw_text"
	paramFollow   = "follow"
	paramRole     = "role"
	paramFacility = "facility"
	paramTail     = "tail"
)

func (e *endpoints) getLogs(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	raw, err := boolOf(query, paramRawText, false)
	if err != nil {
		return err
	}
	follow, err := boolOf(query, paramFollow, false)
	if err != nil {
		return err
	}
	request := services.LogRequest{
		LastSeen: query.Get(paramLastSeen), Role: query.Get(paramRole), Facility: query.Get(paramFacility),
	}
	if text := query.Get(paramTail); text != "" {
		lines, err := strconv.ParseInt(text, 10, 64)
		if err != nil || lines < 0 {
			return state.Malformedf("tail must be a number of lines, not %q", state.Shorten(text, maxQuoted))
		}
		request.Tail = &lines
	}
	switch {
	case follow:
		return e.followLog(w, r, request)
	case raw:
		return e.streamLog(w, r, request)
	}
	return e.pageLog(w, r, request)
}

func (e *endpoints) pageLog(w http.ResponseWriter, r *http.Request, request services.LogRequest) error {
	ctx, cancel := context.WithTimeout(r.Context(), e.answerWithin)
	defer cancel()
	page, err := e.logs.Page(ctx, pathParam(r, "run_id"), request)
	if err != nil {
		return err
	}
	return writeJSON(w, api.LogPage(page))
}

// streamLog writes the log as it is.
func (e *endpoints) streamLog(w http.ResponseWriter, r *http.Request, request services.LogRequest) error {
	stream := newStream(w, typePlainText)
	err := e.logs.Stream(r.Context(), pathParam(r, "run_id"), stream, request)
	if err != nil {
		return err
	}
	return stream.begin()
}

// stalledAfter is how long a reader of a stream may take nothing.
const stalledAfter = 30 * time.Second

// stream is an answer of any length. It ends if its reader takes nothing for stalledAfter; the server's write timeout
// does not apply. Its header is written with its first byte, so that an error before it can still change the status
// code.
type stream struct {
	w           http.ResponseWriter
	control     *http.ResponseController
	contentType string
	begun       bool
}

func newStream(w http.ResponseWriter, contentType string) *stream {
	return &stream{w: w, control: http.NewResponseController(w), contentType: contentType}
}

// begin writes the header, once.
func (s *stream) begin() error {
	if s.begun {
		return nil
	}
	s.begun = true
	header := s.w.Header()
	header.Set("Content-Type", s.contentType)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no") // nginx would hold lines back
	if err := s.control.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	s.w.WriteHeader(http.StatusOK)
	return nil
}

// Write implements io.Writer.
func (s *stream) Write(p []byte) (int, error) {
	if err := s.begin(); err != nil {
		return 0, err
	}
	// The deadlines of a connection use the wall clock.
	if err := s.control.SetWriteDeadline(time.Now().Add(stalledAfter)); err != nil {
		return 0, err
	}
	return s.w.Write(p) //nolint:gosec // Never HTML: the type is set, and browsers may not guess another.
}

// flush sends what was written.
func (s *stream) flush() error { return s.control.Flush() }
