// Package flotilla is the HTTP API: routes, reading of requests and writing of answers. What a request does is in
// package services, the wire types are in package api, and package auth admits or denies requests.
package flotilla

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/go-chi/cors"
	"github.com/google/uuid"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"sigs.k8s.io/yaml"

	"github.com/stitchfix/flotilla-os/api"
	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/flotilla/auth"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// RouterConfig holds what the API needs.
type RouterConfig struct {
	Definitions Definitions
	Executions  Executions
	Templates   Templates
	Logs        Logs
	Clusters    Clusters
	Workers     Workers

	HTTP config.HTTP
	// Tracer records every request as a span; nil records none.
	Tracer trace.TracerProvider
	// DevMode refuses requests that a web page could make its user's browser send to a server on the loopback
	// interface. It has no effect if there are API tokens.
	DevMode bool
	// Ready returns details for operators, or an error if requests cannot be served now.
	Ready func(ctx context.Context) (map[string]string, error)
	// MetricsPage serves GET /metrics; nil if metrics go elsewhere.
	MetricsPage http.Handler
	Metrics     metrics.Client
	Logger      *slog.Logger
	// Clock is nil for time.Now.
	Clock func() time.Time
}

// NewRouter returns the handler of the whole HTTP API.
func NewRouter(cfg RouterConfig) (http.Handler, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	gate, err := auth.NewGate(auth.Config{Tokens: cfg.HTTP.APITokens, DevMode: cfg.DevMode, ListenAddress: cfg.HTTP.ListenAddress})
	if err != nil {
		return nil, err
	}
	document, err := yaml.YAMLToJSON(api.OpenAPI)
	if err != nil {
		return nil, err
	}
	e := &endpoints{
		definitions: cfg.Definitions, executions: cfg.Executions, templates: cfg.Templates,
		logs: cfg.Logs, clusters: cfg.Clusters, workers: cfg.Workers,
		http: cfg.HTTP, answerWithin: answerWithin(cfg.HTTP), gate: gate, isReady: cfg.Ready, openapi: document,
		metrics: cfg.Metrics, logger: cfg.Logger, clock: cfg.Clock,
	}
	router := chi.NewRouter()
	router.Use(requestID, cors.Handler(e.corsOptions()), routeOnSentPath, middleware.GetHead)
	e.routes(func(versions, method, path string, h handler) {
		for _, prefix := range prefixes(versions) {
			router.Method(method, prefix+path, e.adapt(h))
		}
	})
	if cfg.MetricsPage != nil {
		router.Method(http.MethodGet, "/metrics", cfg.MetricsPage)
	}
	router.NotFound(e.adapt(handler{serve: notFound, public: true}).ServeHTTP)
	router.MethodNotAllowed(e.adapt(handler{serve: methodNotAllowed, public: true}).ServeHTTP)
	if cfg.Tracer == nil {
		return router, nil
	}
	return otelhttp.NewHandler(router, "http", otelhttp.WithTracerProvider(cfg.Tracer),
		otelhttp.WithPropagators(propagation.TraceContext{})), nil
}

func (cfg *RouterConfig) check() error {
	if cfg.Definitions == nil || cfg.Executions == nil || cfg.Templates == nil || cfg.Logs == nil ||
		cfg.Clusters == nil || cfg.Workers == nil || cfg.Ready == nil || cfg.Logger == nil {
		return errors.New("flotilla: the router needs every service, a readiness check and a logger")
	}
	if cfg.Metrics == nil {
		cfg.Metrics = metrics.Nop{}
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	return nil
}

// Groups of API versions that share routes (rest-api.md, Routes).
const (
	noVersion = ""
	v1        = "v1"
	v2        = "v2"
	v5        = "v5"
	v6        = "v6"
	v7        = "v7"
	v1v6      = "v1 v6"
	v4v6      = "v4 v6"
)

// routes adds every route of the API. Paths are below /api/<version>, or complete if there is no version.
func (e *endpoints) routes(add func(versions, method, path string, h handler)) {
	get := func(versions, path string, f serveFunc) { add(versions, http.MethodGet, path, handler{serve: f}) }
	put := func(versions, path string, f serveFunc) { add(versions, http.MethodPut, path, handler{serve: f}) }
	post := func(versions, path string, f serveFunc) { add(versions, http.MethodPost, path, handler{serve: f}) }
	del := func(versions, path string, f serveFunc) { add(versions, http.MethodDelete, path, handler{serve: f}) }
	open := func(versions, path string, f serveFunc) {
		add(versions, http.MethodGet, path, handler{serve: f, public: true})
	}

	open(noVersion, "/readyz", e.ready)
	open(noVersion, "/api/openapi.json", e.openAPI)
	open(v6, "/health", health)

	get(v1v6, "/task", e.listDefinitions)
	post(v1v6, "/task", e.createDefinition)
	get(v1v6, "/task/{definition_id}", e.getDefinition)
	put(v1v6, "/task/{definition_id}", e.updateDefinition)
	del(v1v6, "/task/{definition_id}", e.deleteDefinition)
	get(v1v6, "/task/alias/{alias}", e.getDefinitionByAlias)

	put(v1, "/task/{definition_id}/execute", e.executeV1)
	put(v2, "/task/{definition_id}/execute", e.executeV2)
	put(v4v6, "/task/{definition_id}/execute", e.execute)
	put(v1v6, "/task/alias/{alias}/execute", e.execute)

	get(v1v6, "/history", e.listRuns)
	get(v1v6, "/history/{run_id}", e.getRun)
	get(v1v6, "/task/history/{run_id}", e.getRun)
	get(v1v6, "/task/{definition_id}/history", e.listRunsOfDefinition)
	get(v1v6, "/task/{definition_id}/history/{run_id}", e.getRun)
	del(v1v6, "/task/{definition_id}/history/{run_id}", e.stopRun)

	get(v6, "/{run_id}/status", e.getRunStatus)
	put(v1v6, "/{run_id}/status", e.reportRunStatus)
	add(v1v6, http.MethodGet, "/{run_id}/logs", handler{serve: e.getLogs, streams: true})
	get(v1v6, "/{run_id}/events", e.getRunEvents)
	get(v6, "/{run_id}/manifest", e.getRunManifest)

	get(v1v6, "/groups", e.listGroups)
	get(v1v6, "/tags", e.listTags)

	get(v1v6, "/clusters", e.listClusters)
	post(v6, "/clusters", e.createCluster)
	get(v6, "/clusters/{cluster_id}", e.getCluster)
	put(v6, "/clusters/{cluster_id}", e.updateCluster)
	del(v6, "/clusters/{cluster_id}", e.deleteCluster)

	get(v5, "/worker", e.listWorkers)
	put(v5, "/worker", e.updateWorkers)
	get(v5, "/worker/{worker_type}", e.getWorker)
	put(v5, "/worker/{worker_type}", e.updateWorker)

	get(v7, "/template", e.listTemplates)
	post(v7, "/template", e.createTemplate)
	get(v7, "/template/{template_id}", e.getTemplate)
	put(v7, "/template/{template_id}/execute", e.executeTemplate)
	put(v7, "/template/name/{template_name}/version/{template_version}/execute", e.executeTemplateVersion)
	get(v7, "/template/{template_id}/history", e.listRunsOfTemplate)
	get(v7, "/template/name/{template_name}/history", e.listRunsOfTemplateName)
	get(v7, "/template/history/{run_id}", e.getRun)
	get(v7, "/template/{template_id}/history/{run_id}", e.getRun)
	del(v7, "/template/{template_id}/history/{run_id}", e.stopRun)
}

// prefixes returns the path prefixes of a list of versions.
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

const requestIDHeader = "X-Request-Id"

type requestIDKey struct{}

// soundRequestID matches what is taken over as a request's id from a proxy.
var soundRequestID = regexp.MustCompile(`^[A-Za-z0-9_.:/+=-]{1,128}$`)

// requestID gives every request an id, which its answer and the log carry.
func requestID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(requestIDHeader)
		if !soundRequestID.MatchString(id) {
			id = uuid.NewString()
		}
		w.Header().Set(requestIDHeader, id)
		// The CORS library would spell it Etag.
		w.Header().Set("Access-Control-Expose-Headers", "Warning, "+requestIDHeader+", ETag")
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id)))
	})
}

func requestIDOf(r *http.Request) string {
	id, _ := r.Context().Value(requestIDKey{}).(string)
	return id
}

// corsOptions lets web pages of the configured origins read the API. In dev mode "*" means any page of this machine:
// otherwise every web page that the user visits could submit jobs.
func (e *endpoints) corsOptions() cors.Options {
	options := cors.Options{
		AllowedOrigins: e.http.CORSAllowedOrigins,
		AllowedMethods: []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete},
		AllowedHeaders: []string{"*"},
		MaxAge:         600,
	}
	switch {
	case e.gate.Guarded() && slices.Contains(options.AllowedOrigins, "*"):
		options.AllowedOrigins = nil
		options.AllowOriginFunc = func(_ *http.Request, origin string) bool { return auth.IsLoopbackOrigin(origin) }
	case len(options.AllowedOrigins) == 0:
		// An empty list means any origin to the library.
		options.AllowOriginFunc = func(*http.Request, string) bool { return false }
	}
	return options
}

var slashes = regexp.MustCompile(`//+`)

// routeOnSentPath has chi route by the path as it was sent, so that a %2F in a parameter separates nothing. Doubled
// slashes count as one.
func routeOnSentPath(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		chi.RouteContext(r.Context()).RoutePath = slashes.ReplaceAllString(r.URL.EscapedPath(), "/")
		next.ServeHTTP(w, r)
	})
}

func notFound(_ http.ResponseWriter, r *http.Request) error {
	return state.Missingf("there is nothing at %s %s; GET /api/openapi.json lists what there is", r.Method, state.Shorten(r.URL.Path, maxQuoted))
}

func methodNotAllowed(w http.ResponseWriter, r *http.Request) error {
	var allowed []string
	route := chi.RouteContext(r.Context())
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		if route.Routes.Match(chi.NewRouteContext(), method, route.RoutePath) {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) == 0 {
		return notFound(w, r)
	}
	list := strings.Join(allowed, ", ")
	w.Header().Set("Allow", list)
	return httpError{http.StatusMethodNotAllowed, "this path does not support " + state.Shorten(r.Method, maxQuoted) + ", but " + list}
}

type readinessFunc func(ctx context.Context) (map[string]string, error)

// health reports that the process is alive. It checks nothing else.
func health(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, api.Health{Status: "healthy", Message: "Service is up and running"})
}

// ready reports whether requests can be served: the database is reachable and migrated.
func (e *endpoints) ready(w http.ResponseWriter, r *http.Request) error {
	details, err := e.isReady(r.Context())
	if unavailable := (state.Unavailable{}); err != nil && !errors.As(err, &unavailable) {
		return state.Unavailable{Err: err}
	}
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return writeJSON(w, api.Ready{Status: "ready", Details: details})
}

func (e *endpoints) openAPI(w http.ResponseWriter, _ *http.Request) error {
	return writeBody(w, http.StatusOK, typeJSON, e.openapi)
}
