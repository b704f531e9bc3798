package api

import "time"

// Cluster is a place where runs are executed, as answered.
type Cluster struct {
	// ID is a decimal number, or "cfg-" and the name for a configured cluster.
	ID             string `json:"id"`
	Name           string `json:"name"`
	ClusterVersion string `json:"cluster_version"`
	// Status is "active", "maintenance" or "offline".
	Status            string     `json:"status"`
	StatusReason      string     `json:"status_reason"`
	StatusSince       *time.Time `json:"status_since"`
	AllowedTiers      []string   `json:"allowed_tiers"`
	Capabilities      []string   `json:"capabilities"`
	UpdatedAt         *time.Time `json:"updated_at"`
	Namespace         string     `json:"namespace"`
	Region            string     `json:"region"`
	EMRVirtualCluster string     `json:"emr_virtual_cluster"`
	SparkServerURI    string     `json:"spark_server_uri"`
}

// ClusterRequest creates or changes a cluster. In a change, absent members and null leave the stored value as it is.
type ClusterRequest struct {
	Name              string   `json:"name"`
	ClusterVersion    string   `json:"cluster_version"`
	Status            string   `json:"status"`
	StatusReason      string   `json:"status_reason"`
	AllowedTiers      []string `json:"allowed_tiers"`
	Capabilities      []string `json:"capabilities"`
	Namespace         string   `json:"namespace"`
	Region            string   `json:"region"`
	EMRVirtualCluster string   `json:"emr_virtual_cluster"`
	SparkServerURI    string   `json:"spark_server_uri"`
}

// ClusterList is the answer of GET /clusters.
type ClusterList struct {
	Clusters []Cluster `json:"clusters"`
}

// Worker is how many workers of a type each server runs.
type Worker struct {
	// WorkerType is "submit", "retry" or "status".
	WorkerType       string `json:"worker_type"`
	CountPerInstance int64  `json:"count_per_instance"`
	Engine           string `json:"engine"`
}

// WorkerRequest sets the count of a worker type, for all engines.
type WorkerRequest struct {
	WorkerType string `json:"worker_type"`
	// CountPerInstance must be present; 0 pauses the type.
	CountPerInstance *int64 `json:"count_per_instance"`
	// Engine is ignored.
	Engine string `json:"engine"`
}

// WorkerList has one worker per type.
type WorkerList struct {
	Total   int      `json:"total"`
	Workers []Worker `json:"workers"`
}
