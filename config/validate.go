package config

import (
	"encoding/hex"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	// variableName is what shells and Kubernetes both accept as the name of an environment variable.
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	// namespaceName is a DNS label of RFC 1123, as every name of a Kubernetes namespace is.
	namespaceName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// RequireDatabase returns an error if database_url is not set, for commands that cannot start a database of their own.
func (c *Config) RequireDatabase() error {
	if c.DatabaseURL != "" {
		return nil
	}
	return &ValueError{Key: "database_url", Held: "nothing", Allowed: field{tag: `mask:"url"`}.allowed()}
}

// validate checks what the tags do not: forms of a single key, and keys that bound each other. The error is a
// *ValueError.
func (c *Config) validate() error {
	refuse := func(key string, held any, allowed string, args ...any) error {
		return &ValueError{Key: key, Held: quote(held), Allowed: fmt.Sprintf(allowed, args...)}
	}
	_, port, err := net.SplitHostPort(c.HTTP.ListenAddress)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	switch {
	case err != nil:
		return refuse("http_server_listen_address", c.HTTP.ListenAddress,
			"an address and a port such as :5000 or 127.0.0.1:5000")
	case c.Metrics.Client == MetricsDogStatsD && c.Metrics.DogStatsDAddress == "":
		return refuse("metrics_dogstatsd_address", nil,
			"the agent's address such as 127.0.0.1:8125 or unix:///var/run/datadog/dsd.socket")
	case !variableName.MatchString(c.OwnerIDVar):
		return refuse("owner_id_var", c.OwnerIDVar, "the name of an environment variable such as FLOTILLA_RUN_OWNER_ID")
	case !namespaceName.MatchString(c.EKS.JobNamespace):
		return refuse("eks_job_namespace", c.EKS.JobNamespace,
			"the name of a Kubernetes namespace: at most 63 small letters, digits and dashes between them")
	case c.Local.Enabled && slices.Contains(c.EKS.Clusters, c.Local.ClusterName):
		return refuse("local.cluster_name", c.Local.ClusterName, "a name that is not among eks_clusters")
	case c.Retry.MaxDelay < c.Retry.BaseDelay:
		return refuse("retry_max_delay", c.Retry.MaxDelay,
			"a duration of at least retry_base_delay, which holds %s", c.Retry.BaseDelay)
	}
	for _, bound := range []struct {
		key      string
		max, min int64
		minKey   string
	}{
		{"ara.max_cpu", c.ARA.MaxCPU, c.ARA.MinCPU, "ara.min_cpu"},
		{"ara.max_cpu_gpu", c.ARA.MaxCPUGPU, c.ARA.MinCPU, "ara.min_cpu"},
		{"ara.max_memory", c.ARA.MaxMemory, c.ARA.MinMemory, "ara.min_memory"},
		{"ara.max_memory_gpu", c.ARA.MaxMemoryGPU, c.ARA.MinMemory, "ara.min_memory"},
	} {
		if bound.max < bound.min {
			return refuse(bound.key, bound.max, "a whole number of at least %s, which holds %d", bound.minKey, bound.min)
		}
	}
	return nil
}

const tokensAllowed = "a list of entries name:read:<sha256 of the token, 64 hex digits> or name:write:<sha256>, " +
	"or of mappings with name, access and sha256, each name once"

// parseTokens reads the entries name:read|write:<sha256>, as a list or separated by commas, or mappings with the
// members name, access and sha256. No message shows an entry: it may hold the token itself by mistake.
func parseTokens(key string, raw any) ([]APIToken, error) {
	refuse := func(held string, args ...any) error {
		return &ValueError{Key: key, Held: fmt.Sprintf(held, args...), Allowed: tokensAllowed}
	}
	items, ok := raw.([]any)
	if !ok {
		list, ok := parseList(raw)
		if !ok {
			return nil, refuse("something that is not a list")
		}
		for _, entry := range list {
			items = append(items, entry)
		}
	}
	var tokens []APIToken
	for i, item := range items {
		parts := make([]string, 3)
		switch v := item.(type) {
		case map[string]any:
			for j, member := range []string{"name", "access", "sha256"} {
				parts[j], _ = scalarText(v[member])
			}
			ok = len(v) == len(parts)
		default:
			text, _ := scalarText(item)
			parts = strings.Split(text, ":")
			ok = len(parts) == 3
		}
		if !ok {
			return nil, refuse("an entry (number %d) of another form", i+1)
		}
		token := APIToken{
			Name: strings.TrimSpace(parts[0]), Access: strings.TrimSpace(parts[1]),
			SHA256: strings.ToLower(strings.TrimSpace(parts[2])),
		}
		const sha256Size = 32
		sum, err := hex.DecodeString(token.SHA256)
		switch {
		case token.Name == "" || slices.ContainsFunc(tokens, func(t APIToken) bool { return t.Name == token.Name }):
			return nil, refuse("an entry (number %d) with a name that is empty or was used before", i+1)
		case token.Access != AccessRead && token.Access != AccessWrite:
			return nil, refuse("an entry (number %d) with an access that is neither read nor write", i+1)
		case err != nil || len(sum) != sha256Size:
			return nil, refuse("an entry (number %d) with a SHA-256 that is not 64 hex digits", i+1)
		}
		tokens = append(tokens, token)
	}
	return tokens, nil
}
