package metrics

import (
	"fmt"
	"strings"
	"time"

	"github.com/DataDog/datadog-go/v5/statsd"

	"github.com/stitchfix/flotilla-os/config"
)

// DogStatsD sends measurements to a Datadog agent. If there is no agent, they are lost and nothing fails.
type DogStatsD struct {
	client *statsd.Client
}

var _ Client = (*DogStatsD)(nil)

// sampleAll is the rate of every measurement: there is no sampling.
const sampleAll = 1

// NewDogStatsD returns a client that sends to the configured address, under the configured namespace, each with the
// configured tags beside its own.
func NewDogStatsD(cfg config.Metrics) (*DogStatsD, error) {
	options := []statsd.Option{statsd.WithoutTelemetry(), statsd.WithTags(cleanTags(cfg.DogStatsDTags))}
	if cfg.DogStatsDNamespace != "" {
		options = append(options, statsd.WithNamespace(cfg.DogStatsDNamespace))
	}
	client, err := statsd.New(cfg.DogStatsDAddress, options...)
	if err != nil {
		return nil, fmt.Errorf("metrics: cannot send to metrics_dogstatsd_address %q: %w", cfg.DogStatsDAddress, err)
	}
	return &DogStatsD{client: client}, nil
}

// cleanTags replaces what would end a tag or the message in the protocol.
func cleanTags(tags []string) []string {
	replacer := strings.NewReplacer(",", "_", "|", "_", "\n", "_", "\r", "_")
	clean := make([]string, len(tags))
	for i, tag := range tags {
		clean[i] = strings.ToValidUTF8(replacer.Replace(tag), "_")
	}
	return clean
}

// Increment adds n to a counter.
func (s *DogStatsD) Increment(m Metric, tags []string, n int64) {
	if _, ok := isKind(m, Counter); ok && n >= 1 {
		_ = s.client.Count(string(m), n, cleanTags(tags), sampleAll)
	}
}

// Distribution records one value, as a histogram if the table has it so.
func (s *DogStatsD) Distribution(m Metric, tags []string, value float64) {
	d, ok := isKind(m, Distribution, Histogram)
	switch {
	case !ok || !isFinite(value):
	case d.Kind == Histogram:
		_ = s.client.Histogram(string(m), value, cleanTags(tags), sampleAll)
	default:
		_ = s.client.Distribution(string(m), value, cleanTags(tags), sampleAll)
	}
}

// Gauge sets a value.
func (s *DogStatsD) Gauge(m Metric, tags []string, value float64) {
	if _, ok := isKind(m, Gauge); ok && isFinite(value) {
		_ = s.client.Gauge(string(m), value, cleanTags(tags), sampleAll)
	}
}

// Timing records one duration, sent in milliseconds.
func (s *DogStatsD) Timing(m Metric, tags []string, d time.Duration) {
	if _, ok := isKind(m, Timing); ok {
		_ = s.client.Timing(string(m), d, cleanTags(tags), sampleAll)
	}
}

// Close sends what is still buffered.
func (s *DogStatsD) Close() error {
	if err := s.client.Close(); err != nil {
		return fmt.Errorf("metrics: close: %w", err)
	}
	return nil
}
