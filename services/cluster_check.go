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

func (f *faults) cluster(u state.ClusterUpdate) {
	if u.Name != nil && strings.ContainsAny(*u.Name, "/\\") {
		// The name is also that of a kubeconfig file.
		f.addf("name must not contain a slash or a backslash")
	}
	if u.Status != nil && !slices.Contains(clusterStatuses, *u.Status) {
		f.addf("status must be one of %s, not %q", listed(clusterStatuses), *u.Status)
	}
	texts := []struct {
		field string
		value *string
	}{
		{"cluster_version", u.ClusterVersion}, {"status_reason", u.StatusReason}, {"namespace", u.Namespace},
		{"region", u.Region}, {"emr_virtual_cluster", u.EMRVirtualCluster}, {"spark_server_uri", u.SparkServerURI},
	}
	f.optionalText("name", u.Name, maxName)
	for _, t := range texts {
		f.optionalText(t.field, t.value, maxClusterText)
	}
	f.words("allowed_tiers", u.AllowedTiers)
	f.words("capabilities", u.Capabilities)
}

func (f *faults) words(field string, list *[]string) {
	if list == nil {
		return
	}
	for i, word := range *list {
		f.needText(fmt.Sprintf("%s[%d]", field, i), word, maxName)
	}
}

// updateOf is the cluster as an update that sets every field, to check both by
// the same rules.
func updateOf(c state.Cluster) state.ClusterUpdate {
	return state.ClusterUpdate{
		Name: &c.Name, ClusterVersion: &c.ClusterVersion, Status: &c.Status, StatusReason: &c.StatusReason,
		AllowedTiers: new([]string(c.AllowedTiers)), Capabilities: new([]string(c.Capabilities)),
		Namespace: &c.Namespace, Region: &c.Region, EMRVirtualCluster: &c.EMRVirtualCluster,
		SparkServerURI: &c.SparkServerURI,
	}
}
