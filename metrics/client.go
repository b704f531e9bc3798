package metrics

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/stitchfix/flotilla-os/config"
)

// Client sends measurements. Tags are texts key:value. No call returns an error, blocks or panics: a measurement
// that the table does not know, or of another kind than the table says, is dropped.
type Client interface {
	// Increment adds n to a counter; n below 1 adds nothing.
	Increment(m Metric, tags []string, n int64)
	// Distribution records one value of a metric of kind Distribution or Histogram.
	Distribution(m Metric, tags []string, value float64)
	// Gauge sets a value.
	Gauge(m Metric, tags []string, value float64)
	// Timing records one duration.
	Timing(m Metric, tags []string, d time.Duration)
	// Close sends what is still buffered.
	Close() error
}

// New returns the client that the configuration names.
func New(cfg config.Metrics) (Client, error) {
	switch cfg.Client {
	case config.MetricsPrometheus:
		return NewPrometheus(), nil
	case config.MetricsDogStatsD:
		return NewDogStatsD(cfg)
	case config.MetricsNone:
		return Nop{}, nil
	}
	return nil, fmt.Errorf("metrics: there is no client %q", cfg.Client)
}

// Nop measures nothing.
type Nop struct{}

var _ Client = Nop{}

// Increment does nothing.
func (Nop) Increment(Metric, []string, int64) {}

// Distribution does nothing.
func (Nop) Distribution(Metric, []string, float64) {}

// Gauge does nothing.
func (Nop) Gauge(Metric, []string, float64) {}

// Timing does nothing.
func (Nop) Timing(Metric, []string, time.Duration) {}

// Close does nothing.
func (Nop) Close() error { return nil }

func isKind(m Metric, kinds ...Kind) (Definition, bool) {
	d, ok := Lookup(m)
	if !ok {
		return Definition{}, false
	}
	for _, kind := range kinds {
		if d.Kind == kind {
			return d, true
		}
	}
	return Definition{}, false
}

func isFinite(value float64) bool { return !math.IsNaN(value) && !math.IsInf(value, 0) }

// labelled returns the values of the labels, in their order; what the tags do not give is empty, and tags that are
// not among the labels are dropped.
func labelled(labels, tags []string) []string {
	values := make([]string, len(labels))
	for _, tag := range tags {
		key, value, _ := strings.Cut(tag, ":")
		for i, label := range labels {
			if key == label {
				values[i] = strings.ToValidUTF8(value, "_")
			}
		}
	}
	return values
}
