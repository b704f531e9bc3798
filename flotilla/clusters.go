package flotilla

import (
	"net/http"

	"github.com/stitchfix/flotilla-os/state"
)

type clustersAnswer struct {
	Clusters []state.Cluster `json:"clusters"`
}

func (e *endpoints) listClusters(w http.ResponseWriter, r *http.Request) error {
	list, err := e.clusters.List(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, clustersAnswer{present(list)})
}

func (e *endpoints) getCluster(w http.ResponseWriter, r *http.Request) error {
	cluster, err := e.clusters.Get(r.Context(), pathParam(r, "cluster_id"))
	if err != nil {
		return err
	}
	return writeJSON(w, cluster)
}

// clusterRequest is the body that creates or changes a cluster. A nil field
// was not sent, or sent as null.
type clusterRequest struct {
	Name              *string              `json:"name"`
	ClusterVersion    *string              `json:"cluster_version"`
	Status            *state.ClusterStatus `json:"status"`
	StatusReason      *string              `json:"status_reason"`
	AllowedTiers      *[]string            `json:"allowed_tiers"`
	Capabilities      *[]string            `json:"capabilities"`
	Namespace         *string              `json:"namespace"`
	Region            *string              `json:"region"`
	EMRVirtualCluster *string              `json:"emr_virtual_cluster"`
	SparkServerURI    *string              `json:"spark_server_uri"`
}

func (e *endpoints) createCluster(w http.ResponseWriter, r *http.Request) error {
	var body clusterRequest
	if err := decodeBody(r, &body); err != nil {
		return err
	}
	err := e.clusters.Create(r.Context(), state.Cluster{
		Name: valueOf(body.Name), ClusterVersion: valueOf(body.ClusterVersion), Status: valueOf(body.Status),
		StatusReason: valueOf(body.StatusReason), AllowedTiers: valueOf(body.AllowedTiers),
		Capabilities: valueOf(body.Capabilities), Namespace: valueOf(body.Namespace), Region: valueOf(body.Region),
		EMRVirtualCluster: valueOf(body.EMRVirtualCluster), SparkServerURI: valueOf(body.SparkServerURI),
	})
	if err != nil {
		return err
	}
	return writeJSON(w, createdAnswer{true})
}

func (e *endpoints) updateCluster(w http.ResponseWriter, r *http.Request) error {
	var body clusterRequest
	if err := decodeBody(r, &body); err != nil {
		return err
	}
	if err := e.clusters.Update(r.Context(), pathParam(r, "cluster_id"), state.ClusterUpdate(body)); err != nil {
		return err
	}
	return writeJSON(w, updatedAnswer{true})
}

func (e *endpoints) deleteCluster(w http.ResponseWriter, r *http.Request) error {
	if err := e.clusters.Delete(r.Context(), pathParam(r, "cluster_id")); err != nil {
		return err
	}
	return writeJSON(w, deletedAnswer{true})
}
