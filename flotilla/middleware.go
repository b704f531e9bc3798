package flotilla

import (
	"context"
	"net/http"
	"regexp"
	"slices"

	"github.com/go-chi/cors"
	"github.com/google/uuid"
)

const requestIDHeader = "X-Request-Id"

type requestIDKey struct{}

// soundRequestID is what we take over as a request's id from a proxy.
var soundRequestID = regexp.MustCompile(`^[A-Za-z0-9_.:/+=-]{1,128}$`)

// requestID gives every request an id, in its answer and in the log.
func requestID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(requestIDHeader)
		if !soundRequestID.MatchString(id) {
			id = uuid.NewString()
		}
		w.Header().Set(requestIDHeader, id)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id)))
	})
}

func requestIDOf(r *http.Request) string {
	id, _ := r.Context().Value(requestIDKey{}).(string)
	return id
}

// anyOrigin is the configured origin that stands for all.
const anyOrigin = "*"

// cors lets web pages of the configured origins read the API. In dev mode
// "any" means any page of this machine: otherwise every web page that the
// user visits could submit jobs.
func (e *endpoints) cors() func(http.Handler) http.Handler {
	options := cors.Options{
		AllowedOrigins: e.http.CORSAllowedOrigins,
		AllowedMethods: []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete},
		AllowedHeaders: []string{"*"},
		ExposedHeaders: []string{requestIDHeader, "ETag", "Warning", "Retry-After"},
		MaxAge:         600,
	}
	if e.guarded && slices.Contains(e.http.CORSAllowedOrigins, anyOrigin) {
		options.AllowedOrigins = nil
		options.AllowOriginFunc = func(_ *http.Request, origin string) bool { return isLoopbackOrigin(origin) }
	}
	if len(options.AllowedOrigins) == 0 && options.AllowOriginFunc == nil {
		// An empty list would mean any origin to the library.
		options.AllowOriginFunc = func(*http.Request, string) bool { return false }
	}
	return cors.Handler(options)
}
