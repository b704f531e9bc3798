package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// folderWith returns a folder that holds text as its configuration file.
func folderWith(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, FileName), []byte(text), 0o600))
	return dir
}

func TestLoad(t *testing.T) {
	t.Parallel()
	const hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
	for name, tc := range map[string]struct {
		file string
		env  []string
		want func(c *Config)
	}{
		"an empty file leaves the defaults": {want: func(*Config) {}},
		"a key without a value leaves the default": {
			file: "eks_tier_default:\nara:\n",
			want: func(*Config) {},
		},
		"plain numbers are seconds": {
			file: "http_server_read_timeout_seconds: 7\neks_job_ttl: 0.5\n",
			want: func(c *Config) { c.HTTP.ReadTimeout, c.EKS.JobTTL = 7*time.Second, 500*time.Millisecond },
		},
		"numbers in quotes are numbers, with a unit durations": {
			file: "http_server_read_timeout_seconds: \"7\"\nworker_submit_interval: 250ms\ndatabase_max_idle_connections: '4'\n",
			want: func(c *Config) {
				c.HTTP.ReadTimeout, c.Workers.SubmitInterval = 7*time.Second, 250*time.Millisecond
				c.DatabaseMaxIdleConnections = 4
			},
		},
		"lists are YAML lists": {
			file: "eks_clusters: [prod, dev]\n",
			want: func(c *Config) { c.EKS.Clusters = []string{"prod", "dev"} },
		},
		"lists are texts with commas": {
			file: "eks_clusters: ' prod, dev,'\n",
			env:  []string{"WORKER_TYPES=submit,status"},
			want: func(c *Config) {
				c.EKS.Clusters = []string{"prod", "dev"}
				c.Workers.Types = []string{"submit", "status"}
			},
		},
		"the environment wins over the file": {
			file: "flotilla_mode: file\nara:\n  max_memory: 1000\n",
			env:  []string{"FLOTILLA_MODE=environment", "ARA_MAX_MEMORY=2000"},
			want: func(c *Config) { c.Mode, c.ARA.MaxMemory = "environment", 2000 },
		},
		"a variable set to nothing counts as not set": {
			file: "flotilla_mode: file\n",
			env:  []string{"FLOTILLA_MODE=", "ARA_MAX_MEMORY= "},
			want: func(c *Config) { c.Mode = "file" },
		},
		"groups may be written flat": {
			file: "ara.enabled: false\nlocal.memory_mb: 4096\n",
			want: func(c *Config) { c.ARA.Enabled, c.Local.MemoryMB = false, 4096 },
		},
		"worker counts by engine, from file and environment": {
			file: "worker:\n  eks:\n    submit_worker_count_per_instance: 5\n  other:\n    retry_worker_count_per_instance: 2\n",
			env:  []string{"WORKER_EKS_STATUS_WORKER_COUNT_PER_INSTANCE=3", "WORKER_EKS_SPARK_SUBMIT_WORKER_COUNT_PER_INSTANCE=0"},
			want: func(c *Config) {
				c.Workers.CountPerInstance["eks"]["submit"] = 5
				c.Workers.CountPerInstance["eks"]["status"] = 3
				c.Workers.CountPerInstance["eks-spark"]["submit"] = 0
				c.Workers.CountPerInstance["other"] = map[string]int{"retry": 2}
			},
		},
		"tokens as texts": {
			file: "http_server_api_tokens: ['ci:write:" + strings.ToUpper(hash) + "']\n",
			want: func(c *Config) { c.HTTP.APITokens = []APIToken{{Name: "ci", Access: AccessWrite, SHA256: hash}} },
		},
		"tokens as mappings": {
			file: "http_server_api_tokens:\n  - name: ci\n    access: read\n    sha256: " + hash + "\n",
			want: func(c *Config) { c.HTTP.APITokens = []APIToken{{Name: "ci", Access: AccessRead, SHA256: hash}} },
		},
		"tokens from the environment": {
			env: []string{"HTTP_SERVER_API_TOKENS=a:read:" + hash + ", b:write:" + hash},
			want: func(c *Config) {
				c.HTTP.APITokens = []APIToken{{Name: "a", Access: AccessRead, SHA256: hash}, {Name: "b", Access: AccessWrite, SHA256: hash}}
			},
		},
		"a mapping of YAML, whose names lose their case": {
			file: "ara:\n  cluster_max_memory:\n    Prod-1: 64000\n    arn:aws:eks:us-east-1:1:cluster/a.b: '32000'\n",
			want: func(c *Config) {
				c.ARA.ClusterMaxMemory = map[string]int64{"prod-1": 64000, "arn:aws:eks:us-east-1:1:cluster/a.b": 32000}
			},
		},
		"a mapping of JSON": {
			env:  []string{`ARA_CLUSTER_MAX_MEMORY= {"Prod-1": 64000, "dev": "32000"}`},
			want: func(c *Config) { c.ARA.ClusterMaxMemory = map[string]int64{"prod-1": 64000, "dev": 32000} },
		},
		"a mapping of pairs": {
			env:  []string{"ARA_CLUSTER_MAX_MEMORY=Prod-1=64000, dev = 32000"},
			want: func(c *Config) { c.ARA.ClusterMaxMemory = map[string]int64{"prod-1": 64000, "dev": 32000} },
		},
		"an empty mapping": {
			file: "ara: {cluster_max_memory: {}}\n",
			want: func(c *Config) { c.ARA.ClusterMaxMemory = map[string]int64{} },
		},
		"tags as a mapping": {
			file: "metrics_dogstatsd_tags: {team: data, env: prod}\n",
			want: func(c *Config) { c.Metrics.DogStatsDTags = []string{"env:prod", "team:data"} },
		},
		"tags as a text": {
			file: "metrics_dogstatsd_tags: team:data, env:prod\n",
			want: func(c *Config) { c.Metrics.DogStatsDTags = []string{"team:data", "env:prod"} },
		},
		"no worker at all": {
			file: "worker_types: []\n",
			want: func(c *Config) { c.Workers.Types = nil },
		},
		"variables of other projects": {
			env: []string{"KUBECONFIG=/a:/b", "OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318", "OTEL_SERVICE_NAME=jobs"},
			want: func(c *Config) {
				c.EKS.Kubeconfig = "/a:/b"
				c.Tracing = Tracing{Enabled: true, ServiceName: "jobs"}
			},
		},
		"traces are off if the SDK is disabled": {
			env:  []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318", "OTEL_SDK_DISABLED=true"},
			want: func(*Config) {},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := Default()
			tc.want(&want)
			got, warnings, err := Load(folderWith(t, tc.file), tc.env)
			require.NoError(t, err)
			assert.Empty(t, warnings)
			assert.Equal(t, want, got)
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		file string
		env  []string
		want string
	}{
		"a word as a duration": {
			file: "http_server_read_timeout_seconds: soon\n",
			want: `configuration: http_server_read_timeout_seconds holds "soon"; it may hold a duration such as 5s or 10m, or a number of seconds from 1ms to 1h`,
		},
		"a negative duration": {
			file: "claim_lease: -5s\n",
			want: `configuration: claim_lease holds "-5s"; it may hold a duration such as 5s or 10m, or a number of seconds from 1s to 1h`,
		},
		"a truth value as a duration": {
			file: "claim_lease: true\n",
			want: `configuration: claim_lease holds "true"; it may hold a duration such as 5s or 10m, or a number of seconds from 1s to 1h`,
		},
		"a number of the environment that is not one": {
			env:  []string{"ARA_SAMPLE=many\nlines"},
			want: `configuration: ara.sample (environment variable ARA_SAMPLE) holds "many\nlines"; it may hold a whole number from 1 to 10000`,
		},
		"a number that is not whole": {
			file: "ara: {sample: 2.5}\n",
			want: `configuration: ara.sample holds "2.5"; it may hold a whole number from 1 to 10000`,
		},
		"a share above one": {
			file: "eks_spot_reattempt_override: 5\n",
			want: `configuration: eks_spot_reattempt_override holds "5"; it may hold a number from 0 to 1`,
		},
		"not a number at all": {
			file: "eks_spot_reattempt_override: .nan\n",
			want: `configuration: eks_spot_reattempt_override holds "NaN"; it may hold a number from 0 to 1`,
		},
		"neither true nor false": {
			file: "local: {enabled: maybe}\n",
			want: `configuration: local.enabled holds "maybe"; it may hold true or false`,
		},
		"a word that is not offered": {
			file: "metrics_client: statsd\n",
			want: `configuration: metrics_client holds "statsd"; it may hold one of prometheus, dogstatsd, none`,
		},
		"a worker that does not exist": {
			file: "worker_types: [submit, events]\n",
			want: `configuration: worker_types holds "submit,events"; it may hold a list (YAML, or separated by commas) of any of submit, retry, status`,
		},
		"a worker count that is negative": {
			file: "worker: {eks: {submit_worker_count_per_instance: -1}}\n",
			want: `configuration: worker.eks.submit_worker_count_per_instance holds "-1"; it may hold a whole number from 0 to 1000`,
		},
		"a mapping to something else than numbers": {
			file: "ara: {cluster_max_memory: {prod: much}}\n",
			want: `configuration: ara.cluster_max_memory holds a mapping; it may hold a mapping (YAML, JSON, or a=1,b=2) of names to whole numbers from 1 to 1000000000`,
		},
		"a text that is not a mapping": {
			env:  []string{"ARA_CLUSTER_MAX_MEMORY=prod=1,dev"},
			want: `configuration: ara.cluster_max_memory (environment variable ARA_CLUSTER_MAX_MEMORY) holds "prod=1,dev"; it may hold a mapping (YAML, JSON, or a=1,b=2) of names to whole numbers from 1 to 1000000000`,
		},
		"one name twice": {
			env:  []string{"ARA_CLUSTER_MAX_MEMORY=prod=1,prod=2"},
			want: `configuration: ara.cluster_max_memory (environment variable ARA_CLUSTER_MAX_MEMORY) holds "prod=1,prod=2"; it may hold a mapping (YAML, JSON, or a=1,b=2) of names to whole numbers from 1 to 1000000000`,
		},
		"JSON that is not whole": {
			env:  []string{`ARA_CLUSTER_MAX_MEMORY={"prod": 1`},
			want: `configuration: ara.cluster_max_memory (environment variable ARA_CLUSTER_MAX_MEMORY) holds "{\"prod\": 1"; it may hold a mapping (YAML, JSON, or a=1,b=2) of names to whole numbers from 1 to 1000000000`,
		},
		"a worker count of the environment that is too large": {
			env:  []string{"WORKER_EKS_SPARK_RETRY_WORKER_COUNT_PER_INSTANCE=1001"},
			want: `configuration: worker.eks-spark.retry_worker_count_per_instance (environment variable WORKER_EKS_SPARK_RETRY_WORKER_COUNT_PER_INSTANCE) holds "1001"; it may hold a whole number from 0 to 1000`,
		},
		"a text that must not be empty": {
			file: "eks_job_namespace: ''\n",
			want: `configuration: eks_job_namespace holds ""; it may hold a text that is not empty`,
		},
		"a namespace that there cannot be": {
			file: "eks_job_namespace: Team A\n",
			want: `configuration: eks_job_namespace holds "Team A"; it may hold the name of a Kubernetes namespace: at most 63 small letters, digits and dashes between them`,
		},
		"a variable that there cannot be": {
			env:  []string{"OWNER_ID_VAR=RUN=OWNER"},
			want: `configuration: owner_id_var (environment variable OWNER_ID_VAR) holds "RUN=OWNER"; it may hold the name of an environment variable such as FLOTILLA_RUN_OWNER_ID`,
		},
		"one name for two clusters": {
			file: "eks_clusters: a, b\nlocal: {enabled: true, cluster_name: b}\n",
			want: `configuration: local.cluster_name holds "b"; it may hold a name that is not among eks_clusters`,
		},
		"a list where one text belongs": {
			file: "flotilla_mode: [a, b]\n",
			want: `configuration: flotilla_mode holds a list; it may hold a text that is not empty`,
		},
		"a mapping where a text belongs": {
			file: "log_level: {api: debug}\n",
			want: `configuration: log_level holds a mapping; it may hold one of debug, info, warn, error`,
		},
		"a value where a group belongs": {
			file: "ara: false\n",
			want: `configuration: ara holds "false"; it may hold a mapping of keys such as cluster_max_memory`,
		},
		"an address without a port": {
			file: "http_server_listen_address: localhost\n",
			want: `configuration: http_server_listen_address holds "localhost"; it may hold an address and a port such as :5000 or 127.0.0.1:5000`,
		},
		"a maximum below the minimum": {
			file: "ara: {min_memory: 1000, max_memory: 900}\n",
			want: `configuration: ara.max_memory holds "900"; it may hold a whole number of at least ara.min_memory, which holds 1000`,
		},
		"a longest delay below the first": {
			file: "retry_base_delay: 10m\n",
			want: `configuration: retry_max_delay holds "5m0s"; it may hold a duration of at least retry_base_delay, which holds 10m0s`,
		},
		"dogstatsd without an address": {
			file: "metrics_client: dogstatsd\nmetrics_dogstatsd_address: ''\n",
			want: `configuration: metrics_dogstatsd_address holds nothing; it may hold the agent's address such as 127.0.0.1:8125 or unix:///var/run/datadog/dsd.socket`,
		},
		"a database of another make, its password hidden": {
			file: "database_url: mysql://user:geheim@host/db?sslpassword=geheim\n",
			want: `configuration: database_url holds "mysql://user:xxxxx@host/db?sslpassword=xxxxx"; it may hold a Postgres address such as postgres://user:password@host:5432/flotilla?sslmode=require`,
		},
		"a password whose slash makes the address ambiguous": {
			file: "readonly_database_url: postgres://user:12/geheim@host/db\n",
			want: `configuration: readonly_database_url holds a text that is not an address; it may hold a Postgres address such as postgres://user:password@host:5432/flotilla?sslmode=require`,
		},
		"a database address that cannot be read": {
			env:  []string{"DATABASE_URL=postgres://user:gehe%im@host/db"},
			want: `configuration: database_url (environment variable DATABASE_URL) holds a text that is not an address; it may hold a Postgres address such as postgres://user:password@host:5432/flotilla?sslmode=require`,
		},
		"a token in clear, which is not shown": {
			file: "http_server_api_tokens: ['ci:write:geheim']\n",
			want: `configuration: http_server_api_tokens holds an entry (number 1) with a SHA-256 that is not 64 hex digits; it may hold ` + tokensAllowed,
		},
		"a token of another form, which is not shown": {
			file: "http_server_api_tokens: geheim\n",
			want: `configuration: http_server_api_tokens holds an entry (number 1) of another form; it may hold ` + tokensAllowed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := Load(folderWith(t, tc.file), tc.env)
			require.Error(t, err)
			got := err.Error()
			assert.Equal(t, tc.want, got)
			assert.NotContains(t, got, "geheim")
			assert.NotContains(t, got, "\n")
		})
	}
}

func TestLoadRefusesTokensThatRepeatAName(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("ab", 32)
	_, _, err := Load("", []string{"HTTP_SERVER_API_TOKENS=a:read:" + sum + ",a:write:" + sum})
	assert.ErrorContains(t, err, "an entry (number 2) with a name that is empty or was used before")
	_, _, err = Load("", []string{"HTTP_SERVER_API_TOKENS=a:admin:" + sum})
	assert.ErrorContains(t, err, "an entry (number 1) with an access that is neither read nor write")
}

func TestLoadWithoutFile(t *testing.T) {
	t.Parallel()
	_, _, err := Load("", nil)
	require.NoError(t, err)

	dir := t.TempDir()
	_, _, err = Load(dir, nil)
	require.Error(t, err)
	assert.Equal(t, "configuration: there is no file "+filepath.Join(dir, FileName)+"; name the folder that holds config.yml", err.Error())

	for _, text := range []string{"a: b: c\n", "- a list\n", "just a text\n", "\tx: 1\n"} {
		_, _, err = Load(folderWith(t, text), nil)
		require.Error(t, err, text)
		assert.Contains(t, err.Error(), "is not YAML that maps keys to values", text)
		assert.NotContains(t, err.Error(), "\n")
	}
}

// oldFile is a file as existing deployments have it: worker types that the program before never read, and keys that
// have no effect here, for ever or yet.
const oldFile = `
enabled_workers: [retry, submit]
eks_clusters: prod, dev
eks_job_queue: jobs
eks_status_queue: status
eks_events_queue: events
eks_exception_extractor_url: http://extractor
eks_cluster_override: [a]
eks_gpu_cluster_override: [a]
eks_log_driver_name: awslogs
eks_log_driver_options_awslogs-group: g
eks_log_driver_options_s3_bucket_name: logs
eks_log_driver_options_s3_bucket_root_dir: runs
eks_log_namespace: ""
eks_manifest_storage_options_region: us-east-1
eks_manifest_storage_options_s3_bucket_name: manifests
eks_manifest_storage_options_s3_bucket_root_dir:
redis_address: localhost
redis_db: 0
base_uri: http://localhost:5000
check_image_validity: false
state_manager: postgres
cluster_client: eks
logs_client: eks
queue_manager: sqs
queue_namespace: dev
queue_process_time: 45
queue_retention_seconds: 604800
execution_engine: eks
emr_job_queue: emr
emr_job_namespace: spark
worker: {ecs: {retry_worker_count_per_instance: 1}}
`

// The program before ran every worker regardless of enabled_workers, so an old file must start them all.
func TestAnOldFileStartsEveryWorkerAndWarnsOnceOfEachKeyWithoutEffect(t *testing.T) {
	t.Parallel()
	for name, environ := range map[string][]string{"the file alone": nil, "and its variable": {"ENABLED_WORKERS=retry"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, warnings, err := Load(folderWith(t, oldFile), environ)
			require.NoError(t, err)
			assert.ElementsMatch(t, []string{WorkerSubmit, WorkerRetry, WorkerStatus}, c.Workers.Types)
			assert.Equal(t, []Warning{
				{"eks_events_queue", "this key has no effect yet"},
				{"eks_log_driver_options_s3_bucket_name", "this key has no effect yet"},
				{"eks_log_driver_options_s3_bucket_root_dir", "this key has no effect yet"},
				{"eks_manifest_storage_options_region", "this key has no effect yet"},
				{"eks_manifest_storage_options_s3_bucket_name", "this key has no effect yet"},
				{"emr_job_namespace", "this key has no effect yet"},
				{"enabled_workers", "this key has no effect; worker_types names the workers of this server"},
				{"queue_process_time", "this key has no effect yet"},
			}, warnings)
		})
	}
}

func TestAVariableWithoutEffectIsWarnedOf(t *testing.T) {
	t.Parallel()
	_, warnings, err := Load("", []string{"ENABLED_WORKERS=submit", "EKS_LOG_NAMESPACE=ns", "QUEUE_LENGTH=of another program"})
	require.NoError(t, err)
	assert.Equal(t, []Warning{
		{"eks_log_namespace", "this key has no effect yet"},
		{"enabled_workers", "this key has no effect; worker_types names the workers of this server"},
	}, warnings)
}

func TestUnknownKeysAreWarnedOf(t *testing.T) {
	t.Parallel()
	_, warnings, err := Load(folderWith(t, `
eks_clusterz: prod
ara: {maximum: 5, cluster_max_memory: {prod: 5}}
metrics_dogstatsd_tags: {env: prod}
worker: {eks: {sumbit_worker_count_per_instance: 1}}
`), nil)
	require.NoError(t, err)
	var keys []string
	for _, w := range warnings {
		keys = append(keys, w.Key)
		assert.Contains(t, w.String(), "not known")
	}
	assert.Equal(t, []string{"ara.maximum", "eks_clusterz", "worker.eks.sumbit_worker_count_per_instance"}, keys)
}

func TestTheMemoryOfAClusterIsFoundWhateverTheCaseOfItsName(t *testing.T) {
	t.Parallel()
	c, _, err := Load(folderWith(t, "ara: {cluster_max_memory: {Prod: 5}}\n"), nil)
	require.NoError(t, err)
	assert.EqualValues(t, 5, c.ARA.MaxMemoryOf("Prod"))
	assert.EqualValues(t, 5, c.ARA.MaxMemoryOf("prod"))
	assert.Zero(t, c.ARA.MaxMemoryOf("dev"))
}

func TestRequireDatabase(t *testing.T) {
	t.Parallel()
	c := Default()
	assert.EqualError(t, c.RequireDatabase(), "configuration: database_url holds nothing; "+
		"it may hold a Postgres address such as postgres://user:password@host:5432/flotilla?sslmode=require")
	c.DatabaseURL = "postgres://host/db"
	assert.NoError(t, c.RequireDatabase())
}

func TestMaskDatabaseURL(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"postgres://u:geheim@h:5432/db?sslmode=require": "postgres://u:xxxxx@h:5432/db?sslmode=require",
		"postgres:///db?host=/run&password=geheim":      "postgres:///db?host=%2Frun&password=xxxxx",
		"postgres://u@h/db":                             "postgres://u@h/db",
		"postgres://u:1?geheim@h/db":                    "",
		"postgres://u:1#geheim@h/db":                    "",
		"host=h password=geheim":                        "",
		"geheim":                                        "",
	} {
		assert.Equal(t, want, MaskDatabaseURL(address), address)
	}
}
