// Package config holds the one typed configuration of the program: the keys of conf/config.yml, each of which an
// environment variable of the same name in capitals (dots become underscores) overrides.
//
// The struct tags are the only place that holds a key's name, its default and its bounds. No other package reads the
// environment. A key that nothing outside this package reads is not in Config; see load.go for those of later parts.
package config

import (
	"strings"
	"time"
)

// Config is the whole configuration, grouped by the part of the program that uses it.
//
// Tags: `key` is the name in the file; `default` is the value of an absent key, as the file would hold it; `min` and
// `max` bound numbers and durations; `oneof` lists the words that a text or list may hold; `required` forbids an empty
// text; `mask` keeps passwords out of every message; `pairs` also accepts a mapping for a list.
type Config struct {
	// Mode is the label flotilla-run-mode of Jobs and a variable in the environment of runs.
	Mode string `key:"flotilla_mode" default:"prod" required:"true"`
	// OwnerIDVar is the environment variable that holds the owner of a run.
	OwnerIDVar string `key:"owner_id_var" default:"FLOTILLA_RUN_OWNER_ID" required:"true"`

	// DatabaseURL must be a session connection to the primary. serve does not start without it.
	DatabaseURL string `key:"database_url" mask:"url"`
	// ReadonlyDatabaseURL serves the history lookups of ARA and of the choice of a lifecycle; empty means DatabaseURL.
	ReadonlyDatabaseURL string `key:"readonly_database_url" mask:"url"`
	// DatabaseMaxIdleConnections stay open between requests, for 5 minutes. The default is the most that may be open:
	// with fewer, about every request of a burst would open a connection, which takes longer than the request.
	DatabaseMaxIdleConnections int `key:"database_max_idle_connections" default:"30" min:"0" max:"10000"`
	// DatabaseMaxOpenConnections bounds the pool of one server; it holds a few more sessions for locks and LISTEN.
	DatabaseMaxOpenConnections int `key:"database_max_open_connections" default:"30" min:"2" max:"10000"`
	// CreateDatabaseSchema runs the migrations at start.
	CreateDatabaseSchema bool `key:"create_database_schema" default:"true"`

	HTTP      HTTP
	Workers   Workers
	Metrics   Metrics
	Tracing   Tracing
	EKS       EKS
	Local     Local
	ARA       ARA
	Retry     Retry
	Deadlines Deadlines

	// ClaimLease is how long a claimed run belongs to its worker unless renewed.
	ClaimLease time.Duration `key:"claim_lease" default:"15s" min:"1s" max:"1h"`
	// LostAfter is how long a run may be unknown to its cluster before it counts as lost.
	LostAfter time.Duration `key:"lost_after" default:"30m" min:"1s" max:"720h"`
	// AdoptQueuedMaxAge is the age beyond which QUEUED rows of a database taken over are stopped instead of run.
	AdoptQueuedMaxAge time.Duration `key:"adopt_queued_max_age" default:"1h" min:"0s" max:"8760h"`
	// RunsRetentionDays is the age at which stopped runs are deleted; 0 keeps all.
	RunsRetentionDays int `key:"runs_retention_days" default:"0" min:"0" max:"36500"`
	// LogLevel is the least severe level that is logged.
	LogLevel string `key:"log_level" default:"info" oneof:"debug,info,warn,error"`
	// AWSDefaultRegion is the region that the clusters of EKS.Clusters are listed with.
	AWSDefaultRegion string `key:"aws_default_region" default:"us-east-1"`
}

// HTTP is the API server.
type HTTP struct {
	ListenAddress      string        `key:"http_server_listen_address" default:":5000" required:"true"`
	ReadTimeout        time.Duration `key:"http_server_read_timeout_seconds" default:"5" min:"1ms" max:"1h"`
	WriteTimeout       time.Duration `key:"http_server_write_timeout_seconds" default:"10" min:"1ms" max:"1h"`
	CORSAllowedOrigins []string      `key:"http_server_cors_allowed_origins" default:"*"`
	// APITokens restricts the API to callers that hold one of them; without any the API is open.
	APITokens []APIToken `key:"http_server_api_tokens"`
}

// APIToken is one caller's token. The token itself is never stored, only its SHA-256.
type APIToken struct {
	Name   string
	Access string // AccessRead or AccessWrite
	SHA256 string // 64 hex digits, lower case
}

// The access of a token; write includes read.
const (
	AccessRead  = "read"
	AccessWrite = "write"
)

// The workers that worker_types may name.
const (
	WorkerSubmit = "submit"
	WorkerRetry  = "retry"
	WorkerStatus = "status"
)

// Workers configures the workers of this server and their polls, which only back up the notifications.
type Workers struct {
	// Types are the types of workers that this server may start; the table worker holds the counts.
	Types           []string      `key:"worker_types" default:"submit,retry,status" oneof:"submit,retry,status"`
	SubmitInterval  time.Duration `key:"worker_submit_interval" default:"1s" min:"1ms" max:"1h"`
	StatusInterval  time.Duration `key:"worker_status_interval" default:"5s" min:"1ms" max:"1h"`
	RetryInterval   time.Duration `key:"worker_retry_interval" default:"1s" min:"1ms" max:"1h"`
	ManagerInterval time.Duration `key:"worker_worker_manager_interval" default:"10s" min:"1ms" max:"1h"`
	// CountPerInstance is engine → worker type → workers per server: the count of a new row of the table worker.
	CountPerInstance map[string]map[string]int
}

// The metrics clients that metrics_client may name.
const (
	MetricsPrometheus = "prometheus"
	MetricsDogStatsD  = "dogstatsd"
	MetricsNone       = "none"
)

// Metrics configures where measurements go.
type Metrics struct {
	Client             string   `key:"metrics_client" default:"prometheus" oneof:"prometheus,dogstatsd,none"`
	DogStatsDAddress   string   `key:"metrics_dogstatsd_address" default:"127.0.0.1:8125"`
	DogStatsDNamespace string   `key:"metrics_dogstatsd_namespace"`
	DogStatsDTags      []string `key:"metrics_dogstatsd_tags" pairs:"name:value"`
}

// Tracing comes from the OpenTelemetry variables of the environment alone: they are that project's names, not keys
// of ours. The exporter itself reads further ones (headers, timeout, sampler).
type Tracing struct {
	// Enabled reports whether an OTLP endpoint is set and the SDK is not disabled.
	Enabled bool
	// ServiceName is OTEL_SERVICE_NAME, or flotilla-os.
	ServiceName string
}

// Retry bounds the attempts after infrastructure failures.
type Retry struct {
	// MaxAttempts counts the first one.
	MaxAttempts int           `key:"retry_max_attempts" default:"3" min:"1" max:"100"`
	BaseDelay   time.Duration `key:"retry_base_delay" default:"10s" min:"0s" max:"24h"`
	MaxDelay    time.Duration `key:"retry_max_delay" default:"5m" min:"0s" max:"24h"`
}

// Deadlines are the times from the container's start after which a run is killed, unless the run names one.
type Deadlines struct {
	Spot     time.Duration `key:"active_deadline_seconds_spot" default:"172800" min:"1s" max:"8760h"`
	OnDemand time.Duration `key:"active_deadline_seconds_ondemand" default:"604800" min:"1s" max:"8760h"`
}

// Local configures the driver that runs jobs as processes of this machine.
type Local struct {
	Enabled     bool   `key:"local.enabled" default:"false"`
	ClusterName string `key:"local.cluster_name" default:"local" required:"true"`
	// DataDir also holds the archived logs and manifests of Kubernetes runs.
	DataDir string `key:"local.data_dir" default:".flotilla" required:"true"`
	// MemoryMB and CPUMillicores are what all runs together may request; 0 means 80 % of the machine.
	MemoryMB         int64  `key:"local.memory_mb" default:"0" min:"0" max:"1000000000"`
	CPUMillicores    int64  `key:"local.cpu_millicores" default:"0" min:"0" max:"1000000000"`
	LimitMode        string `key:"local.limit_mode" default:"auto" oneof:"auto,cgroup2,cgroup1,watchdog"`
	ContainerRuntime string `key:"local.container_runtime" default:"none" oneof:"none,docker,podman"`
}

// ARA configures Adaptive Resource Allocation. CPU is in millicores, memory in MB; the defaults are those of ara.md,
// sections 2 and 5.
type ARA struct {
	Enabled          bool          `key:"ara.enabled" default:"true"`
	MinCPU           int64         `key:"ara.min_cpu" default:"256" min:"1" max:"100000000"`
	MaxCPU           int64         `key:"ara.max_cpu" default:"60000" min:"1" max:"100000000"`
	MaxCPUGPU        int64         `key:"ara.max_cpu_gpu" default:"94000" min:"1" max:"100000000"`
	MinMemory        int64         `key:"ara.min_memory" default:"512" min:"1" max:"1000000000"`
	MaxMemory        int64         `key:"ara.max_memory" default:"350000" min:"1" max:"1000000000"`
	MaxMemoryGPU     int64         `key:"ara.max_memory_gpu" default:"376000" min:"1" max:"1000000000"`
	Window           time.Duration `key:"ara.window" default:"72h" min:"1m" max:"8760h"`
	Sample           int           `key:"ara.sample" default:"30" min:"1" max:"10000"`
	MemoryMultiplier float64       `key:"ara.memory_multiplier" default:"1.75" min:"1" max:"100"`
	CPUMultiplier    float64       `key:"ara.cpu_multiplier" default:"1.25" min:"1" max:"100"`
	// ClusterMaxMemory is the memory that a cluster can give one run, by the cluster's name in lower case: the
	// configuration file does not keep the case of keys. Read it through MaxMemoryOf.
	ClusterMaxMemory map[string]int64 `key:"ara.cluster_max_memory" min:"1" max:"1000000000"`
}

// MaxMemoryOf returns the memory in MB that a cluster can give one run, or 0 if none is configured.
func (a ARA) MaxMemoryOf(cluster string) int64 { return a.ClusterMaxMemory[strings.ToLower(cluster)] }

// The values of eks_log_follow: a run's log is followed always, or only while it is read.
const (
	LogFollowOnRead = "on-read"
	LogFollowAlways = "always"
)

// EKS configures Kubernetes clusters of any make; the name is that of the engine on runs.
type EKS struct {
	Clusters          []string `key:"eks_clusters"`
	ClusterDefault    string   `key:"eks_cluster_default"`
	GPUClusterDefault string   `key:"eks_gpu_cluster_default"`
	TierDefault       string   `key:"eks_tier_default" default:"Tier4" required:"true"`

	// KubeconfigBasepath is the folder that holds one kubeconfig per cluster, named like the cluster.
	KubeconfigBasepath string `key:"eks_kubeconfig_basepath"`
	// Kubeconfig is $KUBECONFIG: files, separated as in PATH, whose contexts name clusters.
	Kubeconfig string
	// InClusterName is the cluster that this server itself runs in, reached by its service account; empty means none.
	InClusterName string `key:"eks_in_cluster_name"`

	SchedulerName         string        `key:"eks_scheduler_name" default:"default-scheduler"`
	JobNamespace          string        `key:"eks_job_namespace" default:"default" required:"true"`
	JobTTL                time.Duration `key:"eks_job_ttl" default:"3600" min:"0s" max:"8760h"`
	DefaultServiceAccount string        `key:"eks_default_service_account"`

	SpotOverride bool `key:"eks_spot_override" default:"false"`
	// SpotReattemptOverride is the share (0 to 1) of multi-attempt spot runs from which spot becomes on-demand.
	SpotReattemptOverride float64 `key:"eks_spot_reattempt_override" default:"0.05" min:"0" max:"1"`
	SpotThresholdMinutes  int     `key:"eks_spot_threshold_minutes" default:"30" min:"0" max:"525600"`

	MetricsServerURI     string        `key:"eks_metrics_server_uri"`
	LakekeeperSecretName string        `key:"eks_lakekeeper_secret_name"`
	MaxPodEvents         int           `key:"eks_max_pod_events" default:"20" min:"0" max:"1000"`
	ImagePullPolicy      string        `key:"eks_image_pull_policy" default:"Always" oneof:"Always,IfNotPresent,Never"`
	ImagePullDeadline    time.Duration `key:"image_pull_deadline" default:"10m" min:"1s" max:"24h"`
	TerminateGrace       time.Duration `key:"terminate_grace_seconds" default:"300" min:"0s" max:"24h"`
	AllowDockerSocket    bool          `key:"eks_allow_docker_socket" default:"false"`
	// QPS and Burst limit this server's API requests per cluster; QPS 0 means no limit.
	QPS   float64 `key:"eks_client_qps" default:"0" min:"0" max:"1000000"`
	Burst int     `key:"eks_client_burst" default:"0" min:"0" max:"1000000"`

	// LogRetentionDays is the age at which archived logs, manifests and the logs of local runs are deleted; 0 keeps all.
	LogRetentionDays int    `key:"eks_log_retention_days" default:"0" min:"0" max:"36500"`
	LogFollow        string `key:"eks_log_follow" default:"on-read" oneof:"on-read,always"`
}
