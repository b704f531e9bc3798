// Package metricstest holds the client by which tests read what was measured.
package metricstest

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/stitchfix/flotilla-os/metrics"
)

// Recorder keeps what was measured. It fails its test for a measurement that
// the table of package metrics does not know, of another kind, or whose tags
// are not exactly those of the table, each with a value.
type Recorder struct {
	t  testing.TB
	mu sync.Mutex
	// counts and values are by metric and sorted tags, as "name|key:value|…".
	counts map[string]int64
	values map[string][]float64
}

var _ metrics.Client = (*Recorder)(nil)

// New makes a Recorder.
func New(t testing.TB) *Recorder {
	return &Recorder{t: t, counts: map[string]int64{}, values: map[string][]float64{}}
}

// Increment implements metrics.Client.
func (r *Recorder) Increment(m metrics.Metric, tags []string, n int64) {
	key := r.check(m, tags, metrics.Counter)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[key] += n
}

// Distribution implements metrics.Client.
func (r *Recorder) Distribution(m metrics.Metric, tags []string, value float64) {
	r.record(value, m, tags, metrics.Distribution, metrics.Histogram)
}

// Gauge implements metrics.Client.
func (r *Recorder) Gauge(m metrics.Metric, tags []string, value float64) {
	r.record(value, m, tags, metrics.Gauge)
}

// Timing implements metrics.Client.
func (r *Recorder) Timing(m metrics.Metric, tags []string, d time.Duration) {
	r.record(d.Seconds(), m, tags, metrics.Timing)
}

// Close implements metrics.Client.
func (r *Recorder) Close() error { return nil }

func (r *Recorder) record(value float64, m metrics.Metric, tags []string, kinds ...metrics.Kind) {
	key := r.check(m, tags, kinds...)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.values[key] = append(r.values[key], value)
}

func (r *Recorder) check(m metrics.Metric, tags []string, kinds ...metrics.Kind) string {
	d, known := metrics.Lookup(m)
	assert.True(r.t, known, "%s is not in the table", m)
	assert.Contains(r.t, kinds, d.Kind, "%s is of another kind", m)
	var keys []string
	for _, tag := range tags {
		key, value, _ := strings.Cut(tag, ":")
		keys = append(keys, key)
		assert.NotEmpty(r.t, value, "%s has the tag %s without a value", m, key)
	}
	assert.ElementsMatch(r.t, d.Labels, keys, "tags of %s", m)
	return keyOf(m, tags)
}

// Count returns the sum of a counter with the tags, or with any tags if none are given.
func (r *Recorder) Count(m metrics.Metric, tags ...string) (n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, count := range r.counts {
		if key == keyOf(m, tags) || len(tags) == 0 && strings.HasPrefix(key, string(m)+"|") {
			n += count
		}
	}
	return n
}

// Values returns what was recorded of a metric with the tags, in order.
func (r *Recorder) Values(m metrics.Metric, tags ...string) []float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.values[keyOf(m, tags)])
}

func keyOf(m metrics.Metric, tags []string) string {
	return strings.Join(append([]string{string(m)}, slices.Sorted(slices.Values(tags))...), "|")
}

// Seen returns the names of all metrics that were measured.
func (r *Recorder) Seen() map[metrics.Metric]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[metrics.Metric]bool{}
	for _, key := range slices.AppendSeq(slices.Collect(maps.Keys(r.counts)), maps.Keys(r.values)) {
		name, _, _ := strings.Cut(key, "|")
		seen[metrics.Metric(name)] = true
	}
	return seen
}
