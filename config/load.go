package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/viper"
)

// FileName is the file that Load reads in the folder it is given.
const FileName = "config.yml"

const defaultServiceName = "flotilla-os"

// MaxWorkerCount is the maximum number of workers of one type per server.
const MaxWorkerCount = 1000

// Default returns the configuration of a program with neither file nor environment.
func Default() Config {
	var c Config
	for _, f := range fields(&c) {
		if text, ok := f.tag.Lookup("default"); ok {
			if err := f.set(text); err != nil {
				panic(fmt.Sprintf("config: the default of %s is wrong: %v", f.key, err))
			}
		}
	}
	c.Workers.CountPerInstance = map[string]map[string]int{}
	for _, engine := range []string{"eks", "eks-spark"} {
		c.Workers.CountPerInstance[engine] = map[string]int{WorkerRetry: 1, WorkerSubmit: 1, WorkerStatus: 1}
	}
	c.Tracing.ServiceName = defaultServiceName
	return c
}

// Keys returns every key of Config, sorted, the worker counts of the known engines included.
func Keys() []string {
	c := Default()
	var keys []string
	for _, f := range fields(&c) {
		keys = append(keys, f.key)
	}
	for engine, counts := range c.Workers.CountPerInstance {
		for workerType := range counts {
			keys = append(keys, "worker."+engine+"."+workerType+"_worker_count_per_instance")
		}
	}
	slices.Sort(keys)
	return keys
}

// EnvName returns the name of the environment variable that overrides a key.
func EnvName(key string) string {
	return strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// Load reads <dir>/config.yml, overrides it by the environment (pairs NAME=value, as os.Environ returns them) and
// checks the result. An empty dir means no file. An environment variable that is set to nothing counts as not set.
// The error is one line. Keys that have no effect are returned as warnings.
func Load(dir string, environ []string) (Config, []Warning, error) {
	file, err := readFile(dir)
	if err != nil {
		return Config{}, nil, err
	}
	s := source{file: file, env: make(map[string]string, len(environ))}
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok && strings.TrimSpace(value) != "" {
			s.env[name] = value
		}
	}
	c := Default()
	for _, f := range fields(&c) {
		if raw := s.lookup(f.key); raw != nil {
			if err := f.set(raw); err != nil {
				return Config{}, nil, s.named(err)
			}
		}
	}
	if err := s.workerCounts(c.Workers.CountPerInstance); err != nil {
		return Config{}, nil, err
	}
	c.EKS.Kubeconfig = s.env["KUBECONFIG"]
	c.Tracing = s.tracing()
	warnings, err := s.checkKeys()
	if err != nil {
		return Config{}, nil, err
	}
	if err := c.validate(); err != nil {
		return Config{}, nil, s.named(err)
	}
	return c, warnings, nil
}

func readFile(dir string) (*viper.Viper, error) {
	v := viper.New()
	if dir == "" {
		return v, nil
	}
	file := filepath.Join(dir, FileName)
	v.SetConfigFile(file)
	v.SetConfigType("yaml")
	err := v.ReadInConfig()
	var parseError viper.ConfigParseError
	switch {
	case err == nil:
		return v, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("configuration: there is no file %s; name the folder that holds %s", file, FileName)
	case errors.As(err, &parseError):
		detail := strings.Join(strings.Fields(parseError.Unwrap().Error()), " ")
		return nil, fmt.Errorf("configuration: %s is not YAML that maps keys to values: %s", file, detail)
	}
	return nil, fmt.Errorf("configuration: cannot read %s: %w", file, err)
}

// source holds the values of the file and the environment. Variables of the environment that are set to nothing are
// left out.
type source struct {
	file *viper.Viper
	env  map[string]string
}

// variable returns the name of the environment variable that overrides a key, or "" if there is none. A shell cannot set
// a name with a dash, so WORKER_EKS_SPARK_… is read for the engine eks-spark as well.
func (s source) variable(key string) string {
	name := EnvName(key)
	for _, name := range []string{name, strings.ReplaceAll(name, "-", "_")} {
		if s.env[name] != "" {
			return name
		}
	}
	return ""
}

// lookup returns the value of a key, the environment first, or nil.
func (s source) lookup(key string) any {
	if variable := s.variable(key); variable != "" {
		return s.env[variable]
	}
	return s.file.Get(key)
}

// named adds to a *ValueError the environment variable that the value came from, if it came from one.
func (s source) named(err error) error {
	var ve *ValueError
	if errors.As(err, &ve) && s.variable(ve.Key) != "" {
		ve.Source = "environment variable " + s.variable(ve.Key)
	}
	return err
}

var workerCountKey = regexp.MustCompile(`^worker\.([^.]+)\.(retry|submit|status)_worker_count_per_instance$`)

// workerCounts reads worker.<engine>.<type>_worker_count_per_instance, also of engines that have no default.
func (s source) workerCounts(counts map[string]map[string]int) error {
	for _, key := range append(Keys(), s.file.AllKeys()...) {
		match := workerCountKey.FindStringSubmatch(key)
		if match == nil {
			continue
		}
		raw := s.lookup(key)
		if raw == nil {
			continue
		}
		var n int
		f := field{key: key, tag: `min:"0" max:"1000"`, value: reflect.ValueOf(&n).Elem()}
		if err := f.set(raw); err != nil {
			return s.named(err)
		}
		if counts[match[1]] == nil {
			counts[match[1]] = map[string]int{}
		}
		counts[match[1]][match[2]] = n
	}
	return nil
}

// tracing reads the variables that the OpenTelemetry specification names.
func (s source) tracing() Tracing {
	endpoint := cmp.Or(s.env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"], s.env["OTEL_EXPORTER_OTLP_ENDPOINT"])
	off := strings.EqualFold(strings.TrimSpace(s.env["OTEL_SDK_DISABLED"]), "true") ||
		strings.EqualFold(strings.TrimSpace(s.env["OTEL_TRACES_EXPORTER"]), "none")
	return Tracing{Enabled: endpoint != "" && !off, ServiceName: cmp.Or(s.env["OTEL_SERVICE_NAME"], defaultServiceName)}
}

// silentKeys are keys of existing files that never have an effect here; those that end in * are prefixes.
var silentKeys = []string{
	"eks_job_queue", "eks_status_queue", "emr_job_queue", "queue_namespace", "queue_retention_seconds",
	"eks_exception_extractor_url", "eks_cluster_override", "eks_gpu_cluster_override", "eks_log_driver_name",
	"eks_log_driver_options_awslogs-*", "redis_*", "base_uri", "check_image_validity", "state_manager",
	"cluster_client", "logs_client", "queue_manager", "execution_engine",
}

// laterKeys are keys of existing files that have no effect yet. A start with one of them set warns.
var laterKeys = []string{
	"eks_manifest_storage_options_region", "eks_manifest_storage_options_s3_bucket_name",
	"eks_manifest_storage_options_s3_bucket_root_dir", "eks_log_driver_options_s3_bucket_name",
	"eks_log_driver_options_s3_bucket_root_dir", "eks_log_namespace", "eks_events_queue", "emr_*", "queue_*",
}

// enabledWorkers is a key of existing files that the program before never read. Their value must not stop a worker.
const enabledWorkers = "enabled_workers"

// checkKeys warns of the keys that have no effect, and refuses a value where a group belongs: it would silently leave
// the defaults of the whole group in force.
func (s source) checkKeys() ([]Warning, error) {
	known := Keys()
	given := s.file.AllKeys()
	for _, key := range append([]string{enabledWorkers}, laterKeys...) {
		if s.variable(key) != "" {
			given = append(given, key)
		}
	}
	slices.Sort(given)
	var warnings []Warning
	for _, key := range slices.Compact(given) {
		value := s.lookup(key)
		group := slices.IndexFunc(known, func(k string) bool { return strings.HasPrefix(k, key+".") })
		switch {
		case workerCountKey.MatchString(key):
		case slices.ContainsFunc(known, func(k string) bool { return key == k || strings.HasPrefix(key, k+".") }):
		case key == enabledWorkers:
			warnings = append(warnings, Warning{key, "this key has no effect; worker_types names the workers of this server"})
		case matches(silentKeys, key):
		case matches(laterKeys, key):
			if value != nil && value != "" {
				warnings = append(warnings, Warning{key, "this key has no effect yet"})
			}
		case group >= 0 && value != nil:
			example := strings.TrimPrefix(known[group], key+".")
			return nil, &ValueError{Key: key, Held: quote(value), Allowed: "a mapping of keys such as " + example}
		case group < 0:
			warnings = append(warnings, Warning{key, "this key is not known and has no effect"})
		}
	}
	return warnings, nil
}

// matches reports whether key is among patterns, of which those that end in * are prefixes.
func matches(patterns []string, key string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		prefix, isPrefix := strings.CutSuffix(pattern, "*")
		return key == pattern || isPrefix && strings.HasPrefix(key, prefix)
	})
}
