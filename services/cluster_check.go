package services

import (
	"fmt"
	"slices"
	"strings"

	"github.com/stitchfix/flotilla-os/state"
)

// maxClusterText bounds in bytes the texts of a cluster that nothing looks up.
const maxClusterText = 4_096

// clusterStatuses lists every status word of a cluster.
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
