package metrics

import "slices"

// Kind is how a metric is sent.
type Kind int

const (
	// Counter only grows.
	Counter Kind = iota
	// Gauge is a value as it is now.
	Gauge
	// Distribution is a DogStatsD distribution, aggregated over all servers; a Prometheus histogram.
	Distribution
	// Histogram is a DogStatsD histogram, aggregated by the agent beside the server; a Prometheus histogram.
	Histogram
	// Timing is a duration: milliseconds in DogStatsD, a histogram of seconds in Prometheus.
	Timing
)

// Definition describes a metric.
type Definition struct {
	Kind   Kind
	Help   string
	Labels []string // the tag keys that every measurement carries, each with a value
	Scale  Scale
}

// Scale chooses the buckets of a Prometheus histogram.
type Scale int

const (
	// ScaleSeconds is from a millisecond to five minutes.
	ScaleSeconds Scale = iota
	// ScaleMB is from 128 MB to 524,288 MB.
	ScaleMB
	// ScaleMillicores is from 128 to 131,072 millicores.
	ScaleMillicores
	// ScaleRatio is from 1 to 16.
	ScaleRatio
)

func (s Scale) buckets() []float64 {
	switch s {
	case ScaleMB:
		return doublings(128, 13)
	case ScaleMillicores:
		return doublings(128, 11)
	case ScaleRatio:
		return []float64{1, 1.1, 1.25, 1.5, 1.75, 2, 3, 4, 8, 16}
	}
	return []float64{0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300}
}

func doublings(first float64, count int) []float64 {
	out := make([]float64, count)
	for i := range out {
		out[i] = first
		first *= 2
	}
	return out
}

var (
	runLabels    = []string{TagEngine, TagCluster}
	engineLabels = []string{TagEngine, TagCluster, TagStatus, TagTier}
)

func counter(help string, labels ...string) Definition {
	return Definition{Kind: Counter, Help: help, Labels: labels}
}

func sized(kind Kind, scale Scale, help string) Definition {
	return Definition{Kind: kind, Scale: scale, Help: help, Labels: runLabels}
}

func timing(help string, labels ...string) Definition {
	return Definition{Kind: Timing, Scale: ScaleSeconds, Help: help, Labels: labels}
}

func gauge(help string, labels ...string) Definition {
	return Definition{Kind: Gauge, Help: help, Labels: labels}
}

// table defines each metric. It is read-only.
var table = map[Metric]Definition{
	EngineEKSARAEstimationAttempted: counter("Runs for which ARA looked up what was learnt.", runLabels...),
	EngineEKSARAEstimationSucceeded: counter("Lookups that found earlier memory kills of the command.", runLabels...),
	EngineEKSARAEstimationFailed:    counter("Lookups that failed; the run went out with its default size.", runLabels...),
	EngineEKSARAResourceAdjustment:  counter("Runs for which ARA asked for more than the default.", runLabels...),
	EngineEKSARANoHistoricalData:    counter("Lookups that found no earlier memory kill of the command.", runLabels...),
	EngineEKSARANullCommandHash:     counter("Runs without a command, for which ARA was skipped.", runLabels...),
	EngineEKSARAHitMaxMemory:        counter("Runs whose memory was cut to the maximum.", runLabels...),
	EngineEKSARAHitMaxCPU:           counter("Runs whose CPU was cut to the maximum.", runLabels...),

	EngineEKSARAMemoryIncreaseRatio: sized(Histogram, ScaleRatio, "Memory that ARA asked for divided by default memory, of adjusted runs."),
	EngineEKSARACPUIncreaseRatio:    sized(Histogram, ScaleRatio, "CPU that ARA asked for divided by default CPU, of adjusted runs."),
	EngineEKSARAFinalMemoryMB:       sized(Histogram, ScaleMB, "Memory given to a run, in MB."),
	EngineEKSARAFinalCPUMillicores:  sized(Histogram, ScaleMillicores, "CPU given to a run, in millicores."),
	EngineEKSARADefaultMemory:       sized(Distribution, ScaleMB, "Default memory of adjusted runs, in MB."),
	EngineEKSARAARAMemory:           sized(Distribution, ScaleMB, "Memory that ARA asked for, before bounds, of adjusted runs, in MB."),
	EngineEKSARADefaultCPU:          sized(Distribution, ScaleMillicores, "Default CPU of adjusted runs, in millicores."),
	EngineEKSARAARACPU:              sized(Distribution, ScaleMillicores, "CPU that ARA asked for, before bounds, of adjusted runs, in millicores."),
	EngineEKSARAMemoryIncrease:      sized(Distribution, ScaleMB, "Memory that ARA asked for beyond the default, of adjusted runs, in MB."),
	EngineEKSARACPUIncrease:         sized(Distribution, ScaleMillicores, "CPU that ARA asked for beyond the default, of adjusted runs, in millicores."),

	EngineEKSExecute:           counter("Container jobs handed to a cluster.", engineLabels...),
	EngineEKSEnqueue:           counter("Container runs stored and so enqueued.", engineLabels...),
	EngineEKSTerminate:         counter("Container jobs stopped on request.", engineLabels...),
	EngineEKSRunPodnameChanged: counter("Runs whose pod was replaced by another.", runLabels...),
	EngineEKSTriggeredScaleUp:  counter("Runs for whose sake the cluster was enlarged.", runLabels...),
	EngineEMRExecute:           counter("Spark jobs handed to a cluster.", engineLabels...),
	EngineEMREnqueue:           counter("Spark runs stored and so enqueued.", engineLabels...),
	EngineEMRTerminate:         counter("Spark jobs stopped on request.", engineLabels...),
	EngineUpdateRun:            counter("Changes of a run's state that a cluster reported.", TagEngine, TagCluster, TagStatus),

	QueueDepth:            gauge("Runs in state QUEUED.", runLabels...),
	QueueOldestAgeSeconds: gauge("Age of the oldest run in state QUEUED, in seconds.", runLabels...),
	QueueClaims:           counter("Runs that submit workers took from the queue.", runLabels...),
	RunsActive:            gauge("Runs in state PENDING or RUNNING.", runLabels...),

	SubmitWorkerRunOnce:  timing("Time of one claim by a submit worker, in seconds.", runLabels...),
	RetryWorkerRunOnce:   timing("Duration of one round of the retry worker, in seconds."),
	StatusWorkerRunOnce:  timing("Duration of one look for overdue and lost runs, in seconds."),
	StatusWorkerObserve:  timing("Time to record one observation of a run, in seconds.", runLabels...),
	StatusWorkerEventLag: timing("Time from a change on the cluster to its row, in seconds.", runLabels...),
	WorkersMissing:       gauge("1 if no live server runs workers of the type, else 0.", TagWorkerType),

	HTTPRequests:        counter("Requests answered.", TagMethod, TagRoute, TagCode),
	HTTPRequestDuration: timing("Time to answer a request, in seconds.", TagMethod, TagRoute),
}

// Lookup returns the definition of a metric.
func Lookup(m Metric) (Definition, bool) {
	d, ok := table[m]
	return d, ok
}

// Names returns every metric, sorted.
func Names() []Metric {
	names := make([]Metric, 0, len(table))
	for m := range table {
		names = append(names, m)
	}
	slices.Sort(names)
	return names
}
