package flotilla

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/metrics"
)

// RouterConfig is what the API needs to answer.
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
	// DevMode refuses what a web page could send to a server on the loopback
	// interface behind its user's back; it has no effect where there are API
	// tokens.
	DevMode bool
	// Ready says whether requests can be served now, and with what, for
	// operators to read. An error means no.
	Ready func(ctx context.Context) (map[string]string, error)
	// MetricsPage answers GET /metrics; nil where metrics go elsewhere.
	MetricsPage http.Handler
	Metrics     metrics.Client
	Logger      *slog.Logger
	// Clock is nil for time.Now.
	Clock func() time.Time
}

// NewRouter makes the handler of the whole HTTP API.
func NewRouter(cfg RouterConfig) (http.Handler, error) {
	e, err := newEndpoints(cfg)
	if err != nil {
		return nil, err
	}
	router := chi.NewRouter()
	router.Use(requestID, e.cors(), routeOnEscapedPath, middleware.GetHead)
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

// routes is the one list of what the API answers. Paths are below
// /api/<version>, or as they stand where there is no version.
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
	put(v1v6, "/task/alias/{alias}/execute", e.executeByAlias)

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
