package state

import (
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
	ID                string         `db:"id"`
	Name              string         `db:"name"`
	ClusterVersion    string         `db:"cluster_version"`
	Status            ClusterStatus  `db:"status"`
	StatusReason      string         `db:"status_reason"`
	StatusSince       *time.Time     `db:"status_since"`
	AllowedTiers      pq.StringArray `db:"allowed_tiers"`
	Capabilities      pq.StringArray `db:"capabilities"`
	UpdatedAt         *time.Time     `db:"updated_at"`
	Namespace         string         `db:"namespace"`
	Region            string         `db:"region"`
	EMRVirtualCluster string         `db:"emr_virtual_cluster"`
	SparkServerURI    string         `db:"spark_server_uri"`
	Driver            Driver         `db:"driver"`
}

// ClusterUpdate changes the fields of a cluster that Set names by their
// columns.
type ClusterUpdate struct {
	Cluster
	Set Columns `db:"set"`
}

// Columns names the columns that an update sets.
type Columns = pq.StringArray
