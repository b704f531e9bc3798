package metrics

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/config"
)

// Not parallel: the exporter reads the environment of the process, as the OpenTelemetry specification wants it.
func TestTracesReachTheCollector(t *testing.T) {
	received := make(chan string, 1)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		received <- r.URL.Path + " " + string(body)
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")

	tracing, err := NewTracing(context.Background(), config.Tracing{Enabled: true, ServiceName: "jobs-service"})
	require.NoError(t, err)
	_, span := tracing.Provider.Tracer("test").Start(context.Background(), "submit-a-run")
	span.End()
	require.NoError(t, tracing.Shutdown(context.Background()))
	got := <-received
	assert.Contains(t, got, "/v1/traces ")
	assert.Contains(t, got, "submit-a-run")
	assert.Contains(t, got, "jobs-service")
}

func TestTracesAreOffUnlessAnEndpointIsSet(t *testing.T) {
	t.Parallel()
	tracing, err := NewTracing(context.Background(), config.Tracing{})
	require.NoError(t, err)
	_, span := tracing.Provider.Tracer("test").Start(context.Background(), "nothing")
	assert.False(t, span.IsRecording())
	assert.NoError(t, tracing.Shutdown(context.Background()))
}
