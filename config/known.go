package config

import (
	"slices"
	"strings"

	"github.com/spf13/viper"
)

// inertKeys are keys of existing files that this program has no use for. They stop nothing and warn of nothing.
func inertKeys() []string {
	return []string{
		"eks_job_queue", "eks_events_queue", "eks_status_queue", "eks_exception_extractor_url",
		"eks_cluster_override", "eks_gpu_cluster_override", "eks_log_driver_name",
		"base_uri", "check_image_validity", "state_manager", "cluster_client", "logs_client",
		"queue_manager", "execution_engine",
	}
}

// knownPrefixes are families of keys whose members are accepted without being listed: those of the AWS parts, and
// inert ones.
func knownPrefixes() []string {
	return []string{"emr_", "queue_", "redis_", "eks_log_driver_options_awslogs-"}
}

// checkKeys warns of keys of the file that mean nothing here, and refuses a value where a group belongs: it would
// silently leave the defaults of the whole group in force.
func checkKeys(v *viper.Viper) ([]Warning, error) {
	known := Keys()
	var warnings []Warning
	keys := v.AllKeys()
	slices.Sort(keys)
	for _, key := range keys {
		if slices.Contains(known, key) || isAccepted(key) {
			continue
		}
		if child, ok := knownChild(key, known); ok {
			if v.Get(key) == nil {
				continue
			}
			return nil, &ValueError{Key: key, Held: quote(v.Get(key)), Allowed: "a mapping of keys such as " + child}
		}
		warnings = append(warnings, Warning{Key: key, Message: "this key of the configuration file is not known and has no effect"})
	}
	return warnings, nil
}

func isAccepted(key string) bool {
	if _, _, ok := splitWorkerCountKey(key); ok {
		return true
	}
	return slices.Contains(inertKeys(), key) || slices.ContainsFunc(knownPrefixes(), func(prefix string) bool {
		return strings.HasPrefix(key, prefix)
	})
}

func knownChild(key string, known []string) (string, bool) {
	i := slices.IndexFunc(known, func(k string) bool { return strings.HasPrefix(k, key+".") })
	if i < 0 {
		return "", false
	}
	return strings.TrimPrefix(known[i], key+"."), true
}
