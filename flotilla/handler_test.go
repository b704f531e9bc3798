package flotilla_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/flotilla"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/testkit"
)

// executions replaces Get by a function of the test.
type executions struct {
	flotilla.Executions
	get func(ctx context.Context) (state.Run, error)
}

func (e executions) Get(ctx context.Context, _ string) (state.Run, error) { return e.get(ctx) }

func getting(get func(ctx context.Context) (state.Run, error)) func(*flotilla.RouterConfig) {
	return func(c *flotilla.RouterConfig) { c.Executions = executions{c.Executions, get} }
}

func failing(err error) func(*flotilla.RouterConfig) {
	return getting(func(context.Context) (state.Run, error) { return state.Run{}, err })
}

func TestEachErrorHasItsStatus(t *testing.T) {
	t.Parallel()
	secret := errors.New("pq: password of the database is hunter2")
	for name, c := range map[string]struct {
		err     error
		status  int
		message string
	}{
		"malformed input":  {fmt.Errorf("wrapped: %w", state.Malformedf("memory must be a number")), http.StatusBadRequest, "memory must be a number"},
		"missing resource": {state.Missingf("there is no run"), http.StatusNotFound, "there is no run"},
		"conflict":         {state.Conflictingf("taken"), http.StatusConflict, "taken"},
		"database away":    {state.Unavailable{Err: secret}, http.StatusServiceUnavailable, "database cannot be reached"},
		"out of time":      {context.DeadlineExceeded, http.StatusServiceUnavailable, "too long"},
		"anything else":    {secret, http.StatusInternalServerError, "X-Request-Id"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &testkit.Log{}
			a := newAPI(t, failing(c.err), func(cfg *flotilla.RouterConfig) { cfg.Logger = slog.New(slog.NewTextHandler(log, nil)) })
			got := a.call(t, http.MethodGet, "/api/v6/history/some-run", "")
			assert.Equal(t, c.status, got.status)
			assert.Contains(t, got.failure(t), c.message)
			assert.NotContains(t, string(got.body), "hunter2")
			assert.Contains(t, log.String(), strings.Fields(c.err.Error())[0])
			assert.Contains(t, log.String(), got.header.Get("X-Request-Id"))
			assert.Contains(t, log.String(), "run_id=some-run")
			if c.status == http.StatusServiceUnavailable {
				assert.NotEmpty(t, got.header.Get("Retry-After"))
			}
		})
	}
}

func TestAPanicGets500AndIsLogged(t *testing.T) {
	t.Parallel()
	log := &testkit.Log{}
	a := newAPI(t, getting(func(context.Context) (state.Run, error) { panic("boom") }),
		func(cfg *flotilla.RouterConfig) { cfg.Logger = slog.New(slog.NewTextHandler(log, nil)) })
	got := a.call(t, http.MethodGet, "/api/v6/history/x", "")
	assert.Equal(t, http.StatusInternalServerError, got.status)
	assert.NotContains(t, got.failure(t), "boom")
	assert.Contains(t, log.String(), "boom")
	assert.Contains(t, log.String(), "handler_test.go")
}

func TestASlowDatabaseGets503BeforeTheWriteTimeout(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *flotilla.RouterConfig) {
		c.HTTP.WriteTimeout = 4 * time.Second // the answer has a tenth of it to arrive
		getting(func(ctx context.Context) (state.Run, error) {
			<-ctx.Done()
			return state.Run{}, ctx.Err()
		})(c)
	})
	assert.Equal(t, http.StatusServiceUnavailable, a.call(t, http.MethodGet, "/api/v6/history/x", "").status)
}

// unreachableManager returns a Manager whose database cannot be reached.
func unreachableManager(t testing.TB, a *testAPI) *state.Manager {
	t.Helper()
	manager, err := state.NewManager(state.ManagerConfig{
		URL: "postgres://u:p@127.0.0.1:1/none?sslmode=disable", Logger: slog.New(slog.DiscardHandler), ARA: a.config.ARA,
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = manager.Close() })
	return manager
}

func TestARequestWithoutADatabaseGets503(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.manager = unreachableManager(t, a)
	a.serve(t)
	for _, path := range []string{"/readyz", "/api/v6/history", "/api/v6/task/x", "/api/v5/worker"} {
		got := a.call(t, http.MethodGet, path, "")
		assert.Equal(t, http.StatusServiceUnavailable, got.status, path)
		assert.NotEmpty(t, got.header.Get("Retry-After"), path)
	}
	assert.Equal(t, http.StatusOK, a.call(t, http.MethodGet, "/api/v6/health", "").status, "alive is not ready")
}

func TestUnknownPathsGet404(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	for _, path := range []string{"/", "/api", "/api/v6", "/api/v3/task", "/api/v2/task", "/api/v7/clusters", "/api/v6/task/"} {
		got := a.call(t, http.MethodGet, path, "")
		assert.Equal(t, http.StatusNotFound, got.status, path)
		assert.NotEmpty(t, got.failure(t))
	}
	got := a.call(t, http.MethodPatch, "/api/v6/task/x", "")
	assert.Equal(t, http.StatusMethodNotAllowed, got.status)
	assert.Equal(t, "GET, PUT, DELETE", got.header.Get("Allow"))
	got = a.call(t, http.MethodPost, "/api/v1/clusters", "{}")
	assert.Equal(t, http.StatusMethodNotAllowed, got.status, "v1 only lists clusters")
	assert.Equal(t, http.StatusOK, a.call(t, http.MethodHead, "/api/v6/task", "").status)
}

func TestRequestIDsComeFromTheProxyOrAreMade(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	r := a.request(t, http.MethodGet, "/api/v6/health", "")
	r.Header.Set("X-Request-Id", "proxy-1")
	assert.Equal(t, "proxy-1", a.send(t, r).header.Get("X-Request-Id"))
	r = a.request(t, http.MethodGet, "/api/v6/health", "")
	r.Header.Set("X-Request-Id", "with a \tcontrol character")
	first := a.send(t, r).header.Get("X-Request-Id")
	second := a.call(t, http.MethodGet, "/api/v6/health", "").header.Get("X-Request-Id")
	assert.Len(t, first, 36)
	assert.NotEqual(t, first, second)
}

// counter records measurements.
type counter struct {
	metrics.Nop
	mu     sync.Mutex
	counts map[string]int64
}

func (c *counter) Increment(m metrics.Metric, tags []string, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[string(m)+" "+strings.Join(tags, " ")] += n
}

func TestRequestsAreCountedByTheirRoute(t *testing.T) {
	t.Parallel()
	seen := &counter{counts: map[string]int64{}}
	a := newAPI(t, func(c *flotilla.RouterConfig) { c.Metrics = seen })
	a.call(t, http.MethodGet, "/api/v6/history/some-run", "")
	a.call(t, http.MethodGet, "/api/v6/history/another-run", "")
	a.call(t, http.MethodGet, "/api/v6/health", "")
	a.call(t, http.MethodGet, "/somewhere/else", "")
	a.call(t, "BREW", "/somewhere/else", "")
	seen.mu.Lock()
	defer seen.mu.Unlock()
	assert.Equal(t, map[string]int64{
		"http.requests method:GET route:/api/v6/history/{run_id} code:404": 2,
		"http.requests method:GET route:/api/v6/health code:200":           1,
		"http.requests method:GET route:none code:404":                     1,
		"http.requests method:other route:none code:404":                   1,
	}, seen.counts)
}

func TestTheMetricsPageIsServedIfThereIsOne(t *testing.T) {
	t.Parallel()
	prometheus := metrics.NewPrometheus()
	a := newAPI(t, func(c *flotilla.RouterConfig) { c.Metrics, c.MetricsPage = prometheus, prometheus.Handler() })
	a.call(t, http.MethodGet, "/api/v6/health", "")
	response, err := a.client.Get(a.url + "/metrics")
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	page, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	assert.Contains(t, string(page), `http_requests_total{code="200",method="GET",route="/api/v6/health"} 1`)
	assert.Equal(t, http.StatusNotFound, newAPI(t).call(t, http.MethodGet, "/metrics", "").status)
}

func TestABodyThatDoesNotArriveDoesNotHoldTheServer(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *flotilla.RouterConfig) { c.HTTP.ReadTimeout = 200 * time.Millisecond })
	connection, err := net.Dial("tcp", strings.TrimPrefix(a.url, "http://"))
	require.NoError(t, err)
	defer func() { _ = connection.Close() }()
	require.NoError(t, connection.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = fmt.Fprintf(connection, "POST /api/v6/task HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
	require.NoError(t, err)
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	assert.Equal(t, http.StatusBadRequest, response.StatusCode)
}
