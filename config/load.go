package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/viper"
)

// FileName is the file that Load reads in the folder it is given.
const FileName = "config.yml"

const defaultServiceName = "flotilla-os"

// Load reads <dir>/config.yml, lays the environment (pairs NAME=value, as os.Environ returns them) over it and
// checks the result. An empty dir means no file. An environment variable that is set to nothing counts as not set.
// The error is one line; what is only odd, such as an unknown key of the file, comes back as warnings.
func Load(dir string, environ []string) (Config, []Warning, error) {
	c := Default()
	v, err := readFile(dir)
	if err != nil {
		return Config{}, nil, err
	}
	env := parseEnviron(environ)
	if err := apply(&c, v, env); err != nil {
		return Config{}, nil, withSource(err, env)
	}
	c.EKS.Kubeconfig = env["KUBECONFIG"]
	c.Tracing = tracing(env)
	warnings, err := checkKeys(v)
	if err != nil {
		return Config{}, nil, err
	}
	if err := c.Validate(); err != nil {
		return Config{}, nil, withSource(err, env)
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
		return nil, fmt.Errorf("configuration: %s is not YAML that maps keys to values: %s", file, oneLine(parseError.Unwrap()))
	}
	return nil, fmt.Errorf("configuration: cannot read %s: %w", file, err)
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

func parseEnviron(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok && strings.TrimSpace(value) != "" {
			env[name] = value
		}
	}
	return env
}

// EnvName is the environment variable that overrides a key.
func EnvName(key string) string {
	return strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// lookup finds what a key was given, the environment first.
func lookup(key string, v *viper.Viper, env map[string]string) (raw any, ok bool) {
	if text, isSet := env[EnvName(key)]; isSet {
		return text, true
	}
	raw = v.Get(key)
	return raw, raw != nil
}

func apply(c *Config, v *viper.Viper, env map[string]string) error {
	for _, f := range fields(c) {
		if raw, ok := lookup(f.key, v, env); ok {
			if err := f.set(raw); err != nil {
				return err
			}
		}
	}
	if err := applyWorkerCounts(c, v, env); err != nil {
		return err
	}
	c.EMR = withPrefix("emr_", v, env)
	c.Queue = withPrefix("queue_", v, env)
	return nil
}

// withSource has the error name the environment variable that the value came from, where it came from one.
func withSource(err error, env map[string]string) error {
	var ve *ValueError
	if errors.As(err, &ve) && ve.Source == "" && env[EnvName(ve.Key)] != "" {
		ve.Source = "environment variable " + EnvName(ve.Key)
	}
	return err
}

// withPrefix collects the single values of a family of keys whose members this program does not know one by one.
func withPrefix(prefix string, v *viper.Viper, env map[string]string) map[string]string {
	found := map[string]string{}
	for _, key := range v.AllKeys() {
		if !strings.HasPrefix(key, prefix) {
			continue
		}
		if list, ok := parseList(v.Get(key)); ok {
			found[key] = strings.Join(list, ",")
		}
		if text, ok := scalarText(v.Get(key)); ok {
			found[key] = text
		}
	}
	for name, text := range env {
		if key := strings.ToLower(name); strings.HasPrefix(key, prefix) && name == strings.ToUpper(name) {
			found[key] = text
		}
	}
	return found
}

// tracing reads the variables that the OpenTelemetry specification names.
func tracing(env map[string]string) Tracing {
	endpoint := cmp.Or(env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"], env["OTEL_EXPORTER_OTLP_ENDPOINT"])
	disabled, _ := parseBool(env["OTEL_SDK_DISABLED"])
	off := disabled || strings.EqualFold(strings.TrimSpace(env["OTEL_TRACES_EXPORTER"]), "none")
	return Tracing{Enabled: endpoint != "" && !off, ServiceName: cmp.Or(env["OTEL_SERVICE_NAME"], defaultServiceName)}
}

// Keys lists every key of Config, the worker counts of the known engines included.
func Keys() []string {
	var c Config
	var keys []string
	for _, f := range fields(&c) {
		keys = append(keys, f.key)
	}
	for engine, types := range defaultWorkerCounts() {
		for workerType := range types {
			keys = append(keys, workerCountKey(engine, workerType))
		}
	}
	slices.Sort(keys)
	return keys
}
