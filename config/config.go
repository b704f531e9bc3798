// Package config holds the one typed configuration of the program: the keys of conf/config.yml, each of which an
// environment variable of the same name in capitals (dots become underscores) overrides.
//
// The struct tags are the only place that holds a key's name, its default and its bounds; the loader, the check
// of values and the tests of conf/config.yml read them there. No other package reads the environment.
package config

import "time"

// Config is the whole configuration, grouped by the part of the program that uses it.
//
// Tags: `key` is the name in the file; `default` is what an absent key means, in the form the file would hold;
// `min` and `max` bound numbers and durations; `oneof` lists what a text may be; `required` forbids an empty
// text; `mask` keeps secrets out of every message.
type Config struct {
	// Mode is put on Jobs as the label flotilla-run-mode and is given to runs in their environment.
	Mode string `key:"flotilla_mode" default:"prod" required:"true"`
	// OwnerIDVar names the environment variable by which a run learns who owns it.
	OwnerIDVar string `key:"owner_id_var" default:"FLOTILLA_RUN_OWNER_ID" required:"true"`

	// DatabaseURL must be a session connection to the primary; serve refuses to start without it.
	DatabaseURL string `key:"database_url" mask:"url"`
	// ReadonlyDatabaseURL serves the history lookups of ARA and of the lifecycle choice; empty means DatabaseURL.
	ReadonlyDatabaseURL string `key:"readonly_database_url" mask:"url"`
	// DatabaseMaxIdleConnections are kept open between requests. As many as may be open: with fewer, a connection would be
	// made anew for about every request of a burst, which takes longer than the request. Unused ones go after 5 minutes.
	DatabaseMaxIdleConnections int `key:"database_max_idle_connections" default:"30" min:"0" max:"10000"`
	// DatabaseMaxOpenConnections bounds what one server opens; it holds a few sessions beyond for locks and LISTEN.
	DatabaseMaxOpenConnections int `key:"database_max_open_connections" default:"30" min:"2" max:"10000"`
	// CreateDatabaseSchema has the migrations run at start.
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
	// LostAfter is how long a cluster may not know a run before the run counts as lost.
	LostAfter time.Duration `key:"lost_after" default:"30m" min:"1s" max:"720h"`
	// AdoptQueuedMaxAge bounds the age of QUEUED rows that are still run when a live database is taken over.
	AdoptQueuedMaxAge time.Duration `key:"adopt_queued_max_age" default:"1h" min:"0s" max:"8760h"`
	// RunsRetentionDays deletes older stopped runs; 0 keeps all.
	RunsRetentionDays int `key:"runs_retention_days" default:"0" min:"0" max:"36500"`
	// LogLevel is the least severe level that is written.
	LogLevel string `key:"log_level" default:"info" oneof:"debug,info,warn,error"`
	// AWSDefaultRegion is the region of AWS calls that name none.
	AWSDefaultRegion string `key:"aws_default_region" default:"us-east-1"`

	// EMR and Queue hold the keys emr_* and queue_* as they were given, by full key in lower case.
	EMR   map[string]string
	Queue map[string]string
}

// HTTP is the API server.
type HTTP struct {
	ListenAddress      string        `key:"http_server_listen_address" default:":5000" required:"true"`
	ReadTimeout        time.Duration `key:"http_server_read_timeout_seconds" default:"5" min:"1ms" max:"1h"`
	WriteTimeout       time.Duration `key:"http_server_write_timeout_seconds" default:"10" min:"1ms" max:"1h"`
	CORSAllowedOrigins []string      `key:"http_server_cors_allowed_origins" default:"*"`
	// APITokens closes the API to callers without one of them; none leaves it open.
	APITokens []APIToken `key:"http_server_api_tokens" mask:"all"`
}

// APIToken is one caller's token. The token itself is never stored, only its SHA-256.
type APIToken struct {
	Name   string
	Access string // AccessRead or AccessWrite
	SHA256 string // 64 hex digits, lower case
}

// What a token allows; write includes read.
const (
	AccessRead  = "read"
	AccessWrite = "write"
)

// The workers that enabled_workers may name.
const (
	WorkerSubmit = "submit"
	WorkerRetry  = "retry"
	WorkerStatus = "status"
)

// Workers says which loops this server runs and how often they poll. The polls only back up the notifications.
type Workers struct {
	Enabled         []string      `key:"enabled_workers" default:"submit,retry,status" oneof:"submit,retry,status"`
	SubmitInterval  time.Duration `key:"worker_submit_interval" default:"1s" min:"1ms" max:"1h"`
	StatusInterval  time.Duration `key:"worker_status_interval" default:"5s" min:"1ms" max:"1h"`
	RetryInterval   time.Duration `key:"worker_retry_interval" default:"1s" min:"1ms" max:"1h"`
	ManagerInterval time.Duration `key:"worker_worker_manager_interval" default:"10s" min:"1ms" max:"1h"`
	// CountPerInstance is engine → worker type → loops per server, what a new row of table worker starts with.
	CountPerInstance map[string]map[string]int
}

// The metrics clients that metrics_client may name.
const (
	MetricsPrometheus = "prometheus"
	MetricsDogStatsD  = "dogstatsd"
	MetricsNone       = "none"
)

// Metrics says where measurements go.
type Metrics struct {
	Client             string   `key:"metrics_client" default:"prometheus" oneof:"prometheus,dogstatsd,none"`
	DogStatsDAddress   string   `key:"metrics_dogstatsd_address" default:"127.0.0.1:8125"`
	DogStatsDNamespace string   `key:"metrics_dogstatsd_namespace"`
	DogStatsDTags      []string `key:"metrics_dogstatsd_tags"`
}

// Tracing comes from the OpenTelemetry variables of the environment alone: they are that project's names, not keys
// of ours. The exporter reads its further ones (headers, timeout, sampler) itself.
type Tracing struct {
	// Enabled where an OTLP endpoint is set and the SDK is not disabled.
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

// Deadlines are the times from the container's start after which a run is killed, where the run names none.
type Deadlines struct {
	Spot     time.Duration `key:"active_deadline_seconds_spot" default:"172800" min:"1s" max:"8760h"`
	OnDemand time.Duration `key:"active_deadline_seconds_ondemand" default:"604800" min:"1s" max:"8760h"`
}

// Local is the driver that runs jobs as processes of this machine.
type Local struct {
	Enabled     bool   `key:"local.enabled" default:"false"`
	ClusterName string `key:"local.cluster_name" default:"local" required:"true"`
	// DataDir also holds log archives and manifests where no S3 bucket is configured.
	DataDir string `key:"local.data_dir" default:".flotilla" required:"true"`
	// MemoryMB and CPUMillicores are what runs may request together; 0 means 80 % of the machine.
	MemoryMB         int64  `key:"local.memory_mb" default:"0" min:"0" max:"1000000000"`
	CPUMillicores    int64  `key:"local.cpu_millicores" default:"0" min:"0" max:"1000000000"`
	LimitMode        string `key:"local.limit_mode" default:"auto" oneof:"auto,cgroup2,cgroup1,watchdog"`
	ContainerRuntime string `key:"local.container_runtime" default:"none" oneof:"none,docker,podman"`
}

// ARA is Adaptive Resource Allocation. CPU is in millicores, memory in MB; the defaults are those of the
// specification's page on ARA, sections 2 and 5.
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
}
