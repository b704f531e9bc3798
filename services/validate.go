package services

import (
	"fmt"
	"slices"
	"strings"

	"github.com/stitchfix/flotilla-os/services/render"
	"github.com/stitchfix/flotilla-os/state"
)

// Bounds of the fields of requests. The columns are Postgres integers
// (2^31-1), and ARA multiplies sizes by up to 1.75 in SQL.
const (
	// maxAmount bounds memory and storage in MB, cpu in millicores, and deadlines in seconds.
	maxAmount = 1_000_000_000
	maxGPU    = 1_000
	// maxName bounds in bytes every text that an index holds: an index entry
	// of Postgres takes at most about 2,700 bytes.
	maxName = 512
	// maxImage bounds the name of an image in bytes.
	maxImage = 4_096
	// maxSentence bounds the description of one fault, in bytes.
	maxSentence = 1_000
	// maxCommandAndEnv bounds command and environment together, in bytes.
	maxCommandAndEnv = 1 << 20
	maxPort          = 65_535
	maxInt32         = 1<<31 - 1
	minInt32         = -1 << 31
)

// faults collects everything that is wrong with a request, so that one error names all of it.
type faults []string

func (f *faults) addf(format string, args ...any) {
	*f = append(*f, state.Shorten(fmt.Sprintf(format, args...), maxSentence))
}

// err returns a MalformedInput with all faults, or nil if there are none.
func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return state.MalformedInput{Message: strings.Join(f, "; ")}
}

// text checks the length of a text in bytes. The decoder of requests checks that it is UTF-8 without NUL.
func (f *faults) text(field, value string, max int) {
	if len(value) > max {
		f.addf("%s must be at most %d bytes long, not %d", field, max, len(value))
	}
}

// optionalName checks a text that an index may hold, if it is given.
func (f *faults) optionalName(field string, value *string) {
	if value != nil {
		f.text(field, *value, maxName)
	}
}

// needText checks a text that must not be empty.
func (f *faults) needText(field, value string, max int) {
	if strings.TrimSpace(value) == "" {
		f.addf("%s must not be empty", field)
	}
	f.text(field, value, max)
}

func (f *faults) number(field string, value *int64, low, high int64) {
	if value != nil && (*value < low || *value > high) {
		f.addf("%s must be a whole number from %d to %d, not %d", field, low, high, *value)
	}
}

// sizes checks the numbers that definitions, templates and requests share.
func (f *faults) sizes(memory, cpu, gpu, storage *int64) {
	f.number("memory", memory, 0, maxAmount)
	f.number("cpu", cpu, 0, maxAmount)
	f.number("gpu", gpu, 0, maxGPU)
	f.number("ephemeral_storage", storage, 0, maxAmount)
}

// env checks an environment: each entry must be one that can be passed to a program.
func (f *faults) env(list state.EnvList) {
	for i, v := range list {
		field := fmt.Sprintf("env[%d]", i)
		switch {
		case v.Name == "":
			f.addf("%s.name must not be empty", field)
		case strings.Contains(v.Name, "="):
			f.addf("%s.name must not contain '='", field)
		}
		if size := len(v.Name) + 1 + len(v.Value); size > render.MaxCommand {
			f.addf("%s is %d bytes long; a variable is at most %d bytes with its name", field, size, render.MaxCommand)
		}
	}
}

// command checks a command's size, alone and together with environments.
func (f *faults) command(command *string, envs ...state.EnvList) {
	total := 0
	if command != nil {
		f.text("command", *command, render.MaxCommand)
		total = len(*command)
	}
	for _, v := range slices.Concat(envs...) {
		total += len(v.Name) + 1 + len(v.Value) + 1
	}
	if total > maxCommandAndEnv {
		f.addf("command and env together are %d bytes long; they may have at most %d", total, maxCommandAndEnv)
	}
}

func (f *faults) ports(ports []int64) {
	for i, port := range ports {
		f.number(fmt.Sprintf("ports[%d]", i), &port, 1, maxPort)
	}
}

// object checks the numbers of a value that is stored as JSON.
func (f *faults) object(field string, value state.Object) {
	if err := render.CheckNumbers(value); err != nil {
		f.addf("%s: %s", field, err)
	}
}

// unique returns the values without duplicates, in their order.
func unique[T comparable](values []T) []T {
	var out []T
	for _, v := range values {
		if !slices.Contains(out, v) {
			out = append(out, v)
		}
	}
	return out
}

// maxClusterText bounds the texts of a cluster that no index holds, in bytes.
const maxClusterText = 4_096

// clusterStatuses lists every status of a cluster.
var clusterStatuses = []state.ClusterStatus{state.ClusterActive, state.ClusterMaintenance, state.ClusterOffline}

// cluster checks the fields of a cluster that are set.
func (f *faults) cluster(c state.Cluster) {
	if strings.ContainsAny(c.Name, "/\\") {
		// The name is also that of a kubeconfig file.
		f.addf("name must not contain a slash or a backslash")
	}
	f.text("name", c.Name, maxName)
	for _, t := range []struct{ field, value string }{
		{"cluster_version", c.ClusterVersion}, {"status_reason", c.StatusReason}, {"namespace", c.Namespace},
		{"region", c.Region}, {"emr_virtual_cluster", c.EMRVirtualCluster}, {"spark_server_uri", c.SparkServerURI},
	} {
		f.text(t.field, t.value, maxClusterText)
	}
	f.words("allowed_tiers", c.AllowedTiers)
	f.words("capabilities", c.Capabilities)
}

func (f *faults) clusterStatus(status state.ClusterStatus) {
	if !slices.Contains(clusterStatuses, status) {
		f.addf("status must be one of %s, not %q", listed(clusterStatuses), status)
	}
}

func (f *faults) words(field string, list []string) {
	for i, word := range list {
		f.needText(fmt.Sprintf("%s[%d]", field, i), word, maxName)
	}
}
