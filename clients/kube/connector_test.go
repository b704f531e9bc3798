package kube

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// apiServer responds to every request with an empty list of pods, and records the requests.
type apiServer struct {
	mu       sync.Mutex
	requests []*http.Request
	warning  string
	hang     chan struct{}
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r)
	s.mu.Unlock()
	if s.hang != nil {
		_ = http.NewResponseController(w).Flush()
		select {
		case <-s.hang:
		case <-r.Context().Done():
		}
		return
	}
	if s.warning != "" {
		w.Header().Add("Warning", `299 - "`+s.warning+`"`)
	}
	w.Header().Set("Content-Type", "application/json")
	kind := `{"kind": "PodList", "apiVersion": "v1", "items": []}`
	if strings.Contains(r.URL.Path, "metrics.k8s.io") {
		kind = `{"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "items": []}`
	}
	_, _ = w.Write([]byte(kind))
}

// connect opens a connection to the test's API server.
func connect(t *testing.T, api *apiServer, cfg ConnectorConfig) *Cluster {
	t.Helper()
	server := httptest.NewUnstartedServer(api)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	dir := t.TempDir()
	text := strings.Replace(kubeconfig("a", "token: t", "a"), "'https://a'", server.URL+", insecure-skip-tls-verify: true", 1)
	write(t, dir, "prod", text)
	cfg.EKS.KubeconfigBasepath = dir
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c, err := NewConnector(cfg)
	require.NoError(t, err)
	cluster, err := c.Open("prod")
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	return cluster
}

func TestRequests(t *testing.T) {
	t.Parallel()
	api := &apiServer{}
	cluster := connect(t, api, ConnectorConfig{Version: "1.2.3"})
	_, err := cluster.Client.CoreV1().Pods("jobs").List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	_, err = cluster.Metrics.MetricsV1beta1().PodMetricses("jobs").List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, api.requests, 2)
	for _, r := range api.requests {
		assert.True(t, strings.HasPrefix(r.UserAgent(), "flotilla-os/1.2.3 ("), r.UserAgent())
		assert.Equal(t, "Bearer t", r.Header.Get("Authorization"))
		assert.True(t, strings.HasPrefix(r.Header.Get("Accept"), "application/vnd.kubernetes.protobuf,application/json"), r.Header.Get("Accept"))
	}
}

// lists makes n requests and returns how long they took.
func lists(t *testing.T, cluster *Cluster, n int) time.Duration {
	t.Helper()
	started := time.Now()
	for i := range n {
		client := cluster.Client
		if i%2 == 1 {
			client = cluster.Streams
		}
		_, err := client.CoreV1().Pods("jobs").List(t.Context(), metav1.ListOptions{})
		require.NoError(t, err)
	}
	return time.Since(started)
}

func TestLimitOfRequests(t *testing.T) {
	t.Parallel()
	free := connect(t, &apiServer{}, ConnectorConfig{})
	limited := connect(t, &apiServer{}, ConnectorConfig{EKS: config.EKS{QPS: 50, Burst: 10}})
	assert.GreaterOrEqual(t, lists(t, limited, 60), 900*time.Millisecond, "50 of 60 requests wait, whichever client makes them")
	// The library's own limit of 5 a second would take 48 s.
	assert.Less(t, lists(t, free, 250), 20*time.Second, "no limit unless one is configured")

	for name, tc := range map[string]struct {
		qps       float64
		burst     int
		wantQPS   float32
		wantBurst int
	}{
		"none":            {0, 0, -1, 0},
		"a burst alone":   {0, 10, -1, 0},
		"without a burst": {50, 0, 50, 100},
		"a slow one":      {0.1, 0, 0.1, 1},
		"both":            {50, 60, 50, 60},
	} {
		qps, burst := limits(tc.qps, tc.burst)
		assert.Equal(t, tc.wantQPS, qps, name)
		assert.Equal(t, tc.wantBurst, burst, name)
	}
}

func TestTimeoutEndsRequestsAndNotStreams(t *testing.T) {
	t.Parallel()
	const timeout = 100 * time.Millisecond
	api := &apiServer{hang: make(chan struct{})}
	cluster := connect(t, api, ConnectorConfig{Timeout: timeout})
	started := time.Now()
	_, err := cluster.Client.CoreV1().Pods("jobs").List(t.Context(), metav1.ListOptions{})
	require.Error(t, err)
	assert.Less(t, time.Since(started), 20*time.Second)

	ctx, cancel := context.WithTimeout(t.Context(), 10*timeout)
	defer cancel()
	watch, err := cluster.Streams.CoreV1().Pods("jobs").Watch(ctx, metav1.ListOptions{})
	require.NoError(t, err)
	defer watch.Stop()
	select {
	case event, open := <-watch.ResultChan():
		assert.Error(t, ctx.Err(), "the watch ended before its context: %v %v", event, open)
	case <-ctx.Done():
	}
}

func TestWarningsAreLoggedOnce(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	api := &apiServer{warning: "this is deprecated"}
	cluster := connect(t, api, ConnectorConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	lists(t, cluster, 3)
	assert.Equal(t, 1, strings.Count(log.String(), "this is deprecated"), log.String())
	assert.Contains(t, log.String(), "cluster=prod")
}
