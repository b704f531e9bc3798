package state

import (
	"encoding/json"
	"time"

	"github.com/lib/pq"
)

// ClusterStatus says whether a cluster takes runs.
type ClusterStatus string

// The words of the column cluster_state.status.
const (
	ClusterActive      ClusterStatus = "active"
	ClusterMaintenance ClusterStatus = "maintenance"
	ClusterOffline     ClusterStatus = "offline"
)

// Driver says how the runs of a cluster are executed.
type Driver string

const (
	// DriverKubernetes: as batch/v1 Jobs. The default.
	DriverKubernetes Driver = "kubernetes"
	// DriverLocal: as processes of a server's own machine.
	DriverLocal Driver = "local"
)

// ConfigClusterPrefix starts the id of a cluster that comes from the
// configuration and not from the table; such a cluster cannot be changed.
const ConfigClusterPrefix = "cfg-"

// Cluster is a place where runs are executed. ID is a decimal number for rows
// of cluster_state and ConfigClusterPrefix with the name for configured ones.
type Cluster struct {
	ID                string         `db:"id" json:"id"`
	Name              string         `db:"name" json:"name"`
	ClusterVersion    string         `db:"cluster_version" json:"cluster_version"`
	Status            ClusterStatus  `db:"status" json:"status"`
	StatusReason      string         `db:"status_reason" json:"status_reason"`
	StatusSince       *time.Time     `db:"status_since" json:"status_since"`
	AllowedTiers      pq.StringArray `db:"allowed_tiers" json:"allowed_tiers"`
	Capabilities      pq.StringArray `db:"capabilities" json:"capabilities"`
	UpdatedAt         *time.Time     `db:"updated_at" json:"updated_at"`
	Namespace         string         `db:"namespace" json:"namespace"`
	Region            string         `db:"region" json:"region"`
	EMRVirtualCluster string         `db:"emr_virtual_cluster" json:"emr_virtual_cluster"`
	SparkServerURI    string         `db:"spark_server_uri" json:"spark_server_uri"`
	Driver            Driver         `db:"driver" json:"-"`
}

// MarshalJSON writes the REST resource "Cluster".
func (c Cluster) MarshalJSON() ([]byte, error) {
	type fields Cluster
	if c.AllowedTiers == nil {
		c.AllowedTiers = pq.StringArray{}
	}
	if c.Capabilities == nil {
		c.Capabilities = pq.StringArray{}
	}
	c.StatusSince, c.UpdatedAt = utc(c.StatusSince), utc(c.UpdatedAt)
	return json.Marshal(fields(c))
}

// ClusterUpdate changes a cluster; nil fields stay as they are.
type ClusterUpdate struct {
	Name              *string
	ClusterVersion    *string
	Status            *ClusterStatus
	StatusReason      *string
	AllowedTiers      *[]string
	Capabilities      *[]string
	Namespace         *string
	Region            *string
	EMRVirtualCluster *string
	SparkServerURI    *string
}
