// Package metrics holds the names of everything that Flotilla measures and the clients that send it: Prometheus,
// DogStatsD, or none; and the set-up of traces. The table of this package defines what each number means. Measuring
// never fails: an invalid call is dropped.
package metrics

// Metric is the name of a measurement, with dots, as DogStatsD sends it. Prometheus shows dots as underscores, and
// counters with the suffix _total.
type Metric string

// Adaptive Resource Allocation: lookups and their outcomes. Attempted is the sum of succeeded,
// no_historical_data and failed.
const (
	EngineEKSARAEstimationAttempted Metric = "engine.eks.ara.estimation_attempted"
	EngineEKSARAEstimationSucceeded Metric = "engine.eks.ara.estimation_succeeded"
	EngineEKSARAEstimationFailed    Metric = "engine.eks.ara.estimation_failed"
	EngineEKSARAResourceAdjustment  Metric = "engine.eks.ara.resource_adjustment"
	EngineEKSARANoHistoricalData    Metric = "engine.eks.ara.no_historical_data"
	EngineEKSARANullCommandHash     Metric = "engine.eks.ara.null_command_hash"
	EngineEKSARAHitMaxMemory        Metric = "engine.eks.ara.hit_max_memory"
	EngineEKSARAHitMaxCPU           Metric = "engine.eks.ara.hit_max_cpu"
)

// Adaptive Resource Allocation: the sizes.
const (
	EngineEKSARAMemoryIncreaseRatio Metric = "engine.eks.ara.memory_increase_ratio"
	EngineEKSARACPUIncreaseRatio    Metric = "engine.eks.ara.cpu_increase_ratio"
	EngineEKSARAFinalMemoryMB       Metric = "engine.eks.ara.final_memory_mb"
	EngineEKSARAFinalCPUMillicores  Metric = "engine.eks.ara.final_cpu_millicores"
	EngineEKSARADefaultMemory       Metric = "engine.eks.ara.default_memory"
	EngineEKSARAARAMemory           Metric = "engine.eks.ara.ara_memory"
	EngineEKSARADefaultCPU          Metric = "engine.eks.ara.default_cpu"
	EngineEKSARAARACPU              Metric = "engine.eks.ara.ara_cpu"
	EngineEKSARAMemoryIncrease      Metric = "engine.eks.ara.memory_increase"
	EngineEKSARACPUIncrease         Metric = "engine.eks.ara.cpu_increase"
)

// What engines do with runs.
const (
	EngineEKSExecute           Metric = "engine.eks.execute"
	EngineEKSEnqueue           Metric = "engine.eks.enqueue"
	EngineEKSTerminate         Metric = "engine.eks.terminate"
	EngineEKSRunPodnameChanged Metric = "engine.eks.run_podname_changed"
	EngineEKSTriggeredScaleUp  Metric = "engine.eks.triggered_scale_up"
	EngineEMRExecute           Metric = "engine.emr.execute"
	EngineEMREnqueue           Metric = "engine.emr.enqueue"
	EngineEMRTerminate         Metric = "engine.emr.terminate"
	EngineUpdateRun            Metric = "engine.update_run"
)

// The queue and what is under way.
const (
	QueueDepth            Metric = "queue.depth"
	QueueOldestAgeSeconds Metric = "queue.oldest_age_seconds"
	QueueClaims           Metric = "queue.claims"
	RunsActive            Metric = "runs.active"
)

// The worker loops.
const (
	SubmitWorkerRunOnce  Metric = "submit_worker.run_once"
	RetryWorkerRunOnce   Metric = "retry_worker.run_once"
	StatusWorkerRunOnce  Metric = "status_worker.run_once"
	StatusWorkerObserve  Metric = "status_worker.observe"
	StatusWorkerEventLag Metric = "status_worker.event_lag"
	WorkersMissing       Metric = "workers.missing"
)

// The API.
const (
	HTTPRequests        Metric = "http.requests"
	HTTPRequestDuration Metric = "http.request_duration"
)

// Tag keys. A tag is written key:value.
const (
	TagEngine     = "engine"
	TagCluster    = "cluster"
	TagStatus     = "status"
	TagTier       = "tier"
	TagWorkerType = "worker_type"
	TagMethod     = "method"
	TagRoute      = "route"
	TagCode       = "code"
)

// Values of TagStatus on what engines do.
const (
	StatusSuccess = "success"
	StatusFailure = "failure"
)

// Tag joins a key and a value to a tag.
func Tag(key, value string) string { return key + ":" + value }

// EngineTags returns the tags of what concerns one engine of one cluster.
func EngineTags(engine, cluster string) []string {
	return []string{Tag(TagEngine, engine), Tag(TagCluster, cluster)}
}

// RunTags returns the tags of what was done with one run; outcome is
// StatusSuccess or StatusFailure.
func RunTags(engine, cluster, tier, outcome string) []string {
	return append(EngineTags(engine, cluster), Tag(TagStatus, outcome), Tag(TagTier, tier))
}

// OfEngine returns the metric of a run's engine, of those of container jobs and
// of Spark jobs.
func OfEngine(engine string, eks, emr Metric) Metric {
	if engine == "eks-spark" {
		return emr
	}
	return eks
}
