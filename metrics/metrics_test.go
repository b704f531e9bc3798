package metrics

import (
	"io"
	"math"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/stitchfix/flotilla-os/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var runTags = EngineTags("eks", "prod")

// scrape returns what Prometheus would read.
func scrape(t *testing.T, p *Prometheus) string {
	t.Helper()
	answer := httptest.NewRecorder()
	p.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	require.Equal(t, 200, answer.Code)
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return string(body)
}

func TestPrometheusShowsWhatWasMeasured(t *testing.T) {
	t.Parallel()
	p := NewPrometheus()
	p.Increment(EngineEKSARANullCommandHash, runTags, 2)
	p.Increment(EngineEKSARANullCommandHash, runTags, 1)
	p.Gauge(QueueDepth, runTags, 7)
	p.Distribution(EngineEKSARAFinalMemoryMB, runTags, 896)
	p.Distribution(EngineEKSARADefaultMemory, runTags, 512)
	p.Timing(StatusWorkerEventLag, runTags, 20*time.Millisecond)
	text := scrape(t, p)
	for _, line := range []string{
		`engine_eks_ara_null_command_hash_total{cluster="prod",engine="eks"} 3`,
		`# TYPE engine_eks_ara_null_command_hash_total counter`,
		`queue_depth{cluster="prod",engine="eks"} 7`,
		`engine_eks_ara_final_memory_mb_sum{cluster="prod",engine="eks"} 896`,
		`engine_eks_ara_final_memory_mb_bucket{cluster="prod",engine="eks",le="1024"} 1`,
		`engine_eks_ara_final_memory_mb_bucket{cluster="prod",engine="eks",le="512"} 0`,
		`engine_eks_ara_default_memory_count{cluster="prod",engine="eks"} 1`,
		`status_worker_event_lag_sum{cluster="prod",engine="eks"} 0.02`,
		`go_goroutines`,
	} {
		assert.Contains(t, text, line)
	}
}

func TestPrometheusDropsInvalidCalls(t *testing.T) {
	t.Parallel()
	p := NewPrometheus()
	misuse(p)
	p.Increment(EngineEKSARANullCommandHash, []string{"unknown:tag", "cluster", "engine:a:b"}, 1)
	p.Increment(EngineEKSARANullCommandHash, []string{"cluster:\xff"}, 1)
	text := scrape(t, p)
	assert.Contains(t, text, `engine_eks_ara_null_command_hash_total{cluster="",engine="a:b"} 1`)
	assert.Contains(t, text, `engine_eks_ara_null_command_hash_total{cluster="_",engine=""} 1`)
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") && strings.HasPrefix(line, "engine_") {
			assert.Contains(t, line, "null_command_hash", "nothing else was measured")
		}
		assert.False(t, strings.HasPrefix(line, "queue_depth{"), line)
	}
}

// misuse makes calls that no client may take and none may fail at.
func misuse(c Client) {
	c.Increment("no.such.metric", nil, 1)
	c.Increment(EngineEKSARANullCommandHash, runTags, 0)
	c.Increment(EngineEKSARANullCommandHash, runTags, -1)
	c.Increment(QueueDepth, nil, 1)
	c.Gauge(EngineEKSARANullCommandHash, nil, 1)
	c.Gauge(QueueDepth, nil, math.NaN())
	c.Distribution(QueueDepth, nil, 1)
	c.Distribution(EngineEKSARAFinalMemoryMB, nil, math.Inf(1))
	c.Timing(EngineEKSARAFinalMemoryMB, nil, time.Second)
}

func TestPrometheusCountsConcurrently(t *testing.T) {
	t.Parallel()
	p := NewPrometheus()
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 100 {
				p.Increment(QueueClaims, runTags, 1)
			}
		})
	}
	group.Wait()
	assert.Contains(t, scrape(t, p), `queue_claims_total{cluster="prod",engine="eks"} 800`)
}

func TestTableNamesEveryMetricOnce(t *testing.T) {
	t.Parallel()
	seen := map[string]Metric{}
	for _, m := range Names() {
		d, ok := Lookup(m)
		require.True(t, ok)
		assert.NotEmpty(t, d.Help, m)
		name := PrometheusName(m)
		assert.Empty(t, seen[name], "%s and %s are one in Prometheus", m, seen[name])
		seen[name] = m
	}
}

// The names and kinds that ara.md section 4 fixes.
func TestARANamesAreThoseOfTheSpecification(t *testing.T) {
	t.Parallel()
	for kind, names := range map[Kind]string{
		Counter: "estimation_attempted estimation_succeeded estimation_failed resource_adjustment no_historical_data " +
			"null_command_hash hit_max_memory hit_max_cpu",
		Histogram:    "memory_increase_ratio cpu_increase_ratio final_memory_mb final_cpu_millicores",
		Distribution: "default_memory ara_memory default_cpu ara_cpu memory_increase cpu_increase",
	} {
		for _, name := range strings.Fields(names) {
			d, ok := Lookup(Metric("engine.eks.ara." + name))
			assert.True(t, ok, name)
			assert.Equal(t, kind, d.Kind, name)
			assert.Equal(t, []string{"engine", "cluster"}, d.Labels, name)
		}
	}
	count := 0
	for _, m := range Names() {
		if strings.HasPrefix(string(m), "engine.eks.ara.") {
			count++
		}
	}
	assert.Equal(t, 18, count)
}

func TestNewMakesTheConfiguredClient(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Client{
		config.MetricsPrometheus: &Prometheus{}, config.MetricsDogStatsD: &DogStatsD{}, config.MetricsNone: Nop{},
	} {
		cfg := config.Default().Metrics
		cfg.Client = name
		got, err := New(cfg)
		require.NoError(t, err)
		assert.IsType(t, want, got)
		misuse(got)
		assert.NoError(t, got.Close())
	}
	_, err := New(config.Metrics{Client: "other"})
	assert.ErrorContains(t, err, "other")
}
