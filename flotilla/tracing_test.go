package flotilla_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/stitchfix/flotilla-os/flotilla"
)

func TestRequestsAreSpansNamedByTheirRoute(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	a := newAPI(t, func(c *flotilla.RouterConfig) {
		c.Tracer = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	})
	r := a.request(t, http.MethodGet, "/api/v6/history/some-run", "")
	r.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	a.send(t, r)
	assert.Eventually(t, func() bool { return len(spans.Ended()) == 1 }, 10*time.Second, time.Millisecond)
	span := spans.Ended()[0]
	assert.Equal(t, "GET /api/v6/history/{run_id}", span.Name())
	require.True(t, span.Parent().IsValid())
	assert.Equal(t, "0af7651916cd43dd8448eb211c80319c", span.SpanContext().TraceID().String(), "the caller's trace goes on")
}
