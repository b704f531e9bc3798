package metrics

import (
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Prometheus keeps measurements in a registry of its own, to be scraped from Handler.
type Prometheus struct {
	registry   *prometheus.Registry
	counters   map[Metric]*prometheus.CounterVec
	gauges     map[Metric]*prometheus.GaugeVec
	histograms map[Metric]*prometheus.HistogramVec
}

var _ Client = (*Prometheus)(nil)

// NewPrometheus returns a client for every metric of the table and those of the Go runtime and the process.
func NewPrometheus() *Prometheus {
	p := &Prometheus{
		registry:   prometheus.NewRegistry(),
		counters:   map[Metric]*prometheus.CounterVec{},
		gauges:     map[Metric]*prometheus.GaugeVec{},
		histograms: map[Metric]*prometheus.HistogramVec{},
	}
	p.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for m, d := range table {
		p.register(m, d)
	}
	return p
}

func (p *Prometheus) register(m Metric, d Definition) {
	name := PrometheusName(m)
	switch d.Kind {
	case Counter:
		p.counters[m] = prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: d.Help}, d.Labels)
		p.registry.MustRegister(p.counters[m])
	case Gauge:
		p.gauges[m] = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: d.Help}, d.Labels)
		p.registry.MustRegister(p.gauges[m])
	case Distribution, Histogram, Timing:
		opts := prometheus.HistogramOpts{Name: name, Help: d.Help, Buckets: d.Scale.buckets()}
		p.histograms[m] = prometheus.NewHistogramVec(opts, d.Labels)
		p.registry.MustRegister(p.histograms[m])
	}
}

// PrometheusName returns the name under which Prometheus shows a metric.
func PrometheusName(m Metric) string {
	name := strings.ReplaceAll(string(m), ".", "_")
	if d, ok := Lookup(m); ok && d.Kind == Counter {
		name += "_total"
	}
	return name
}

// Handler returns the handler of scrapes.
func (p *Prometheus) Handler() http.Handler {
	return promhttp.HandlerFor(p.registry, promhttp.HandlerOpts{})
}

// Increment adds n to a counter.
func (p *Prometheus) Increment(m Metric, tags []string, n int64) {
	d, ok := isKind(m, Counter)
	if !ok || n < 1 {
		return
	}
	if c, err := p.counters[m].GetMetricWithLabelValues(labelled(d.Labels, tags)...); err == nil {
		c.Add(float64(n))
	}
}

// Distribution records one value.
func (p *Prometheus) Distribution(m Metric, tags []string, value float64) {
	if d, ok := isKind(m, Distribution, Histogram); ok {
		p.observe(m, d, tags, value)
	}
}

// Timing records one duration.
func (p *Prometheus) Timing(m Metric, tags []string, duration time.Duration) {
	if d, ok := isKind(m, Timing); ok {
		p.observe(m, d, tags, duration.Seconds())
	}
}

func (p *Prometheus) observe(m Metric, d Definition, tags []string, value float64) {
	if !isFinite(value) {
		return
	}
	if h, err := p.histograms[m].GetMetricWithLabelValues(labelled(d.Labels, tags)...); err == nil {
		h.Observe(value)
	}
}

// Gauge sets a value.
func (p *Prometheus) Gauge(m Metric, tags []string, value float64) {
	d, ok := isKind(m, Gauge)
	if !ok || !isFinite(value) {
		return
	}
	if g, err := p.gauges[m].GetMetricWithLabelValues(labelled(d.Labels, tags)...); err == nil {
		g.Set(value)
	}
}

// Close has nothing to send.
func (p *Prometheus) Close() error { return nil }
