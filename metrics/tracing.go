package metrics

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/stitchfix/flotilla-os/config"
)

// Tracing provides tracers, which record nothing if traces are off.
type Tracing struct {
	Provider trace.TracerProvider
	shutdown func(context.Context) error
}

// NewTracing sets traces up if the environment names an OTLP endpoint (OTEL_EXPORTER_OTLP_ENDPOINT and its
// siblings, which the exporter reads by the OpenTelemetry specification). It does not fail if there is
// no collector.
func NewTracing(ctx context.Context, cfg config.Tracing) (*Tracing, error) {
	if !cfg.Enabled {
		return &Tracing{Provider: noop.NewTracerProvider(), shutdown: func(context.Context) error { return nil }}, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("metrics: set up traces: %w", err)
	}
	about, err := resource.Merge(resource.Default(),
		resource.NewSchemaless(attribute.String("service.name", cfg.ServiceName)))
	if err != nil {
		return nil, fmt.Errorf("metrics: describe this service to traces: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	return &Tracing{Provider: provider, shutdown: provider.Shutdown}, nil
}

// Shutdown sends what is still buffered, as long as ctx lasts.
func (t *Tracing) Shutdown(ctx context.Context) error {
	if err := t.shutdown(ctx); err != nil {
		return fmt.Errorf("metrics: shut traces down: %w", err)
	}
	return nil
}
