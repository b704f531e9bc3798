package config

import (
	"slices"
	"strings"

	"github.com/spf13/viper"
)

const (
	workerPrefix      = "worker."
	workerCountSuffix = "_worker_count_per_instance"

	// MaxWorkerCount is the most workers of one type that a server may be told to run.
	MaxWorkerCount = 1000
)

// The engines whose worker counts have a default; a file may hold counts of further ones.
func knownEngines() []string { return []string{"eks", "eks-spark"} }

func workerTypes() []string { return []string{WorkerRetry, WorkerSubmit, WorkerStatus} }

func defaultWorkerCounts() map[string]map[string]int {
	counts := map[string]map[string]int{}
	for _, engine := range knownEngines() {
		counts[engine] = map[string]int{}
		for _, workerType := range workerTypes() {
			counts[engine][workerType] = 1
		}
	}
	return counts
}

func workerCountKey(engine, workerType string) string {
	return workerPrefix + engine + "." + workerType + workerCountSuffix
}

// splitWorkerCountKey takes worker.<engine>.<type>_worker_count_per_instance apart.
func splitWorkerCountKey(key string) (engine, workerType string, ok bool) {
	rest, hasPrefix := strings.CutPrefix(key, workerPrefix)
	rest, hasSuffix := strings.CutSuffix(rest, workerCountSuffix)
	engine, workerType, hasDot := strings.Cut(rest, ".")
	ok = hasPrefix && hasSuffix && hasDot && engine != "" && slices.Contains(workerTypes(), workerType)
	return engine, workerType, ok
}

func applyWorkerCounts(c *Config, v *viper.Viper, env map[string]string) error {
	keys := Keys()
	for _, key := range v.AllKeys() {
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	for _, key := range keys {
		engine, workerType, ok := splitWorkerCountKey(key)
		if !ok {
			continue
		}
		raw, source, ok := lookupWorkerCount(key, v, env)
		if !ok {
			continue
		}
		text, isScalar := scalarText(raw)
		n, isInt := parseInt(text)
		if !isScalar || !isInt || n < 0 || n > MaxWorkerCount {
			return &ValueError{Key: key, Held: quote(raw), Allowed: "a whole number from 0 to 1000", Source: source}
		}
		if c.Workers.CountPerInstance[engine] == nil {
			c.Workers.CountPerInstance[engine] = map[string]int{}
		}
		c.Workers.CountPerInstance[engine][workerType] = int(n)
	}
	return nil
}

// lookupWorkerCount also accepts WORKER_EKS_SPARK_… for the engine eks-spark: a shell cannot set a name with a dash.
func lookupWorkerCount(key string, v *viper.Viper, env map[string]string) (raw any, source string, ok bool) {
	name := strings.ReplaceAll(EnvName(key), "-", "_")
	if text, isSet := env[name]; isSet {
		return text, "environment variable " + name, true
	}
	raw, ok = lookup(key, v, env)
	return raw, "", ok
}
