package flotilla

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"go.opentelemetry.io/otel/trace"

	"github.com/stitchfix/flotilla-os/api"
	"github.com/stitchfix/flotilla-os/flotilla/auth"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/services"
	"github.com/stitchfix/flotilla-os/state"
)

// serveFunc writes the answer to a request, or returns an error before it has written anything.
type serveFunc func(w http.ResponseWriter, r *http.Request) error

// handler serves a route.
type handler struct {
	serve serveFunc
	// public routes need no API token.
	public bool
	// streams marks answers that may take any time.
	streams bool
}

// adapt makes an http.Handler. It checks the caller's rights, bounds the time, maps errors to answers, and logs and
// counts every request once.
func (e *endpoints) adapt(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := e.clock()
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		err := e.serve(ww, r, h)
		if err != nil && ww.Status() == 0 {
			e.answerError(ww, r, err)
		}
		e.record(r, ww, err, e.clock().Sub(start))
		if err != nil && ww.Status() == http.StatusOK {
			// Part of the answer is sent, so only a broken connection can report the error.
			panic(http.ErrAbortHandler)
		}
	})
}

func (e *endpoints) serve(w http.ResponseWriter, r *http.Request, h handler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	if err := checkAddress(r); err != nil {
		return err
	}
	actor, err := e.gate.Admit(r, h.public)
	if err != nil {
		return err
	}
	r = r.WithContext(services.WithActor(r.Context(), actor))
	if !h.streams {
		ctx, cancel := context.WithTimeout(r.Context(), e.answerWithin)
		defer cancel()
		r = r.WithContext(ctx)
	}
	return h.serve(w, r)
}

// httpError is a refusal that has no error type in package state.
type httpError struct {
	status  int
	message string
}

func (e httpError) Error() string { return e.message }

// retryAfter is how many seconds a caller should wait for the database.
const retryAfter = "2"

// statusOf returns the status code and the message of an error.
func statusOf(err error) (status int, message string) {
	var (
		refused     httpError
		denied      auth.Denied
		malformed   state.MalformedInput
		missing     state.MissingResource
		conflicting state.ConflictingResource
		unavailable state.Unavailable
	)
	switch {
	case errors.As(err, &refused):
		return refused.status, refused.message
	case errors.As(err, &denied):
		return denied.Status, denied.Message
	case errors.As(err, &malformed):
		return http.StatusBadRequest, malformed.Message
	case errors.As(err, &missing):
		return http.StatusNotFound, missing.Message
	case errors.As(err, &conflicting):
		return http.StatusConflict, conflicting.Message
	case errors.As(err, &unavailable):
		return http.StatusServiceUnavailable, "the database cannot be reached at present; try again shortly"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable, "the request took too long; try again shortly"
	}
	return http.StatusInternalServerError, "internal error; the server's log has the details under the id in the X-Request-Id header"
}

func (e *endpoints) answerError(w http.ResponseWriter, r *http.Request, err error) {
	drain(r)
	status, message := statusOf(err)
	header := w.Header()
	header.Del("ETag")
	header.Set("Cache-Control", "no-store")
	if status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", "Bearer")
	}
	if status == http.StatusServiceUnavailable {
		header.Set("Retry-After", retryAfter)
	}
	if err := writeJSONStatus(w, status, api.Error{Error: message}); err != nil {
		e.logger.DebugContext(r.Context(), "error answer not sent", "error", err, "request_id", requestIDOf(r))
	}
}

// record logs and counts a request after its answer.
func (e *endpoints) record(r *http.Request, w middleware.WrapResponseWriter, err error, took time.Duration) {
	route := chi.RouteContext(r.Context()).RoutePattern()
	if route == "" {
		route = "none"
	}
	status := w.Status()
	if status == 0 {
		status = http.StatusOK
	}
	method := r.Method
	if !knownMethods[method] {
		method = "other"
	}
	e.metrics.Increment(metrics.HTTPRequests, []string{
		metrics.Tag(metrics.TagMethod, method), metrics.Tag(metrics.TagRoute, route),
		metrics.Tag(metrics.TagCode, strconv.Itoa(status)),
	}, 1)
	e.metrics.Timing(metrics.HTTPRequestDuration, []string{
		metrics.Tag(metrics.TagMethod, method), metrics.Tag(metrics.TagRoute, route),
	}, took)
	// chi sets the route while it serves the request.
	trace.SpanFromContext(r.Context()).SetName(method + " " + route)
	e.accessLog(r, status, w.BytesWritten(), err, took)
}

var knownMethods = map[string]bool{
	http.MethodGet: true, http.MethodHead: true, http.MethodPost: true, http.MethodPut: true,
	http.MethodDelete: true, http.MethodOptions: true, http.MethodPatch: true,
}

func (e *endpoints) accessLog(r *http.Request, status, bytes int, err error, took time.Duration) {
	level := slog.LevelInfo
	switch {
	case r.Context().Err() != nil:
		// The caller has left, so an incomplete answer is no fault.
	case status >= http.StatusInternalServerError:
		level = slog.LevelError
	case r.URL.Path == "/readyz" || r.URL.Path == "/api/v6/health":
		level = slog.LevelDebug
	}
	if !e.logger.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("method", r.Method), slog.String("path", state.Shorten(r.URL.Path, maxQuoted)), slog.Int("status", status),
		slog.Float64("duration_ms", float64(took.Microseconds())/1000), slog.Int("bytes", bytes),
		slog.String("request_id", requestIDOf(r)), slog.String("remote", r.RemoteAddr),
	}
	if runID := pathParam(r, "run_id"); runID != "" {
		attrs = append(attrs, slog.String("run_id", state.Shorten(runID, maxQuoted)))
	}
	if err != nil {
		attrs = append(attrs, slog.Any("error", err))
	}
	e.logger.LogAttrs(r.Context(), level, "request answered", attrs...)
}

const (
	typeJSON        = "application/json; charset=utf-8"
	typePlainText   = "text/plain; charset=utf-8"
	typeYAML        = "text/yaml; charset=utf-8"
	typeEventStream = "text/event-stream; charset=utf-8"
)

// writeJSON writes v with status 200. Nothing is written if v cannot be encoded.
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
