package flotilla

import (
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"

	"github.com/stitchfix/flotilla-os/state"
)

// prefixes lists where the routes of some versions begin.
func prefixes(versions string) []string {
	if versions == noVersion {
		return []string{""}
	}
	var out []string
	for version := range strings.FieldsSeq(versions) {
		out = append(out, "/api/"+version)
	}
	return out
}

// routeOnEscapedPath has routes chosen by the path as it was sent, so that a
// %2F in a parameter separates nothing.
func routeOnEscapedPath(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		chi.RouteContext(r.Context()).RoutePath = r.URL.EscapedPath()
		next.ServeHTTP(w, r)
	})
}

// pathParam is a parameter of the path, percent-decoded once.
func pathParam(r *http.Request, name string) string {
	// The escapes are valid: net/http has parsed the same path before.
	value, _ := url.PathUnescape(chi.URLParam(r, name))
	return value
}

// checkAddress refuses paths and queries that hold what no row could hold.
func checkAddress(r *http.Request) error {
	if !storable(r.URL.Path) {
		return state.Malformedf("the path holds a NUL character or is not UTF-8")
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return state.Malformedf("the query string cannot be read: %v", err)
	}
	for name, values := range query {
		for _, text := range append(values, name) {
			if !storable(text) {
				return state.Malformedf("the query parameter %q holds a NUL character or is not UTF-8", clip(name))
			}
		}
	}
	return nil
}

// storable reports whether Postgres can hold s as text.
func storable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

// clipLength bounds, in bytes, what an answer repeats of a caller's text.
const clipLength = 100

// clip shortens text that goes into a message.
func clip(s string) string { return clipTo(s, clipLength) }

func clipTo(s string, length int) string {
	if len(s) <= length {
		return s
	}
	return strings.ToValidUTF8(s[:length], "") + "…"
}

func notFound(_ http.ResponseWriter, r *http.Request) error {
	return state.Missingf("there is nothing at %s %s; GET /api/openapi.json lists what there is", r.Method, clip(r.URL.Path))
}

func methodNotAllowed(w http.ResponseWriter, r *http.Request) error {
	var allowed []string
	routes := chi.RouteContext(r.Context()).Routes
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		if routes.Match(chi.NewRouteContext(), method, r.URL.EscapedPath()) {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		return notFound(w, r)
	}
	list := strings.Join(allowed, ", ")
	w.Header().Set("Allow", list)
	return httpError{http.StatusMethodNotAllowed, "this path does not answer to " + clip(r.Method) + ", but to " + list}
}
