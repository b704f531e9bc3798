package state

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// ClusterStatus is the administrative status of a cluster.
type ClusterStatus string

// The values of the column cluster_state.status.
const (
	ClusterActive      ClusterStatus = "active"
	ClusterMaintenance ClusterStatus = "maintenance"
	ClusterOffline     ClusterStatus = "offline"
)

// Driver is how the runs of a cluster are executed.
type Driver string

const (
	// DriverKubernetes executes runs as batch/v1 Jobs. It is the default.
	DriverKubernetes Driver = "kubernetes"
	// DriverLocal executes runs as processes of a server's own machine.
	DriverLocal Driver = "local"
)

// ConfigClusterPrefix begins the id of a cluster that comes from the configuration and not from the table. Such a
// cluster cannot be changed.
const ConfigClusterPrefix = "cfg-"

// Cluster is a place where runs are executed. ID is a decimal number for rows of cluster_state, and ConfigClusterPrefix
// with the name for configured clusters.
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

// ClusterUpdate changes the fields of a cluster that Set names by their columns.
type ClusterUpdate struct {
	Cluster
	Set Columns `db:"set"`
}

// Columns names the columns that an update sets.
type Columns = pq.StringArray

// clusterColumns are the columns of table cluster_state that make a Cluster; the one list of them.
const clusterColumns = `
	CAST(cluster_state.id AS text) AS id,
	cluster_state.name,
	cluster_state.cluster_version,
	cluster_state.status,
	COALESCE(cluster_state.status_reason, '') AS status_reason,
	cluster_state.status_since,
	COALESCE(cluster_state.allowed_tiers, '{}') AS allowed_tiers,
	COALESCE(cluster_state.capabilities, '{}') AS capabilities,
	cluster_state.updated_at,
	COALESCE(cluster_state.namespace, '') AS namespace,
	cluster_state.region,
	COALESCE(cluster_state.emr_virtual_cluster, '') AS emr_virtual_cluster,
	COALESCE(cluster_state.spark_server_uri, '') AS spark_server_uri,
	COALESCE(cluster_state.driver, 'kubernetes') AS driver`

// ListClusters returns the clusters of the table by name, one for each name: names are not unique in existing
// databases, and of rows with one name that with the lowest id counts.
func (m *Manager) ListClusters(ctx context.Context) ([]Cluster, error) {
	clusters := []Cluster{}
	err := m.db.SelectContext(ctx, &clusters, `SELECT DISTINCT ON (cluster_state.name) `+clusterColumns+` FROM cluster_state
		ORDER BY cluster_state.name, cluster_state.id`)
	return clusters, interpretError(err)
}

// GetCluster returns the cluster with that id, a decimal number, or MissingResource.
func (m *Manager) GetCluster(ctx context.Context, id string) (Cluster, error) {
	number, err := clusterNumber(id)
	if err != nil {
		return Cluster{}, err
	}
	var c Cluster
	err = m.db.GetContext(ctx, &c, `SELECT `+clusterColumns+` FROM cluster_state WHERE cluster_state.id = $1`, number)
	if errors.Is(err, sql.ErrNoRows) {
		return Cluster{}, missingCluster(id)
	}
	return c, interpretError(err)
}

func missingCluster(id string) error { return Missingf("there is no cluster with the id %q", id) }

// clusterNumber returns id as the key of the table.
func clusterNumber(id string) (int64, error) {
	number, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return 0, missingCluster(id)
	}
	return number, nil
}

// clusterSets assigns each column that an update may set, see assignments.
var clusterSets = []string{
	"name", "cluster_version", "status", "status_reason", "allowed_tiers", "capabilities", "namespace", "region",
	"emr_virtual_cluster", "spark_server_uri",
}

var insertClusterSQL = insertSQL("cluster_state", clusterSets, "updated_at", "status_since = :updated_at", "driver = NULLIF(:driver, '')")

// CreateCluster stores a cluster. It makes the id, and sets the times to now and an empty status to active. It returns
// ConflictingResource if another cluster has the name.
func (m *Manager) CreateCluster(ctx context.Context, c Cluster) error {
	if c.Status == "" {
		c.Status = ClusterActive
	}
	c.UpdatedAt = new(m.clock())
	c.AllowedTiers, c.Capabilities = orEmpty(c.AllowedTiers), orEmpty(c.Capabilities)
	return m.transact(ctx, func(tx *sqlx.Tx) error {
		if err := reserveClusterName(ctx, tx, c.Name, 0); err != nil {
			return err
		}
		_, err := tx.NamedExecContext(ctx, insertClusterSQL, c)
		return err
	})
}

// orEmpty keeps nil out of columns that are NOT NULL.
func orEmpty(a pq.StringArray) pq.StringArray {
	if a == nil {
		return pq.StringArray{}
	}
	return a
}

// reserveClusterName makes sure that no other row has the name, until the transaction ends. No unique index can do
// that, because existing tables hold duplicates.
func reserveClusterName(ctx context.Context, tx *sqlx.Tx, name string, except int64) error {
	if _, err := tx.ExecContext(ctx, `LOCK TABLE cluster_state IN SHARE ROW EXCLUSIVE MODE`); err != nil {
		return err
	}
	var taken bool
	err := tx.GetContext(ctx, &taken, `SELECT EXISTS (SELECT FROM cluster_state WHERE name = $1 AND id <> $2)`, name, except)
	if err == nil && taken {
		return Conflictingf("there already is a cluster with the name %q", name)
	}
	return err
}

// UpdateCluster sets the fields that u names. It returns MissingResource if there is no such cluster, and
// ConflictingResource if another has the name.
func (m *Manager) UpdateCluster(ctx context.Context, id string, u ClusterUpdate) error {
	number, err := clusterNumber(id)
	if err != nil {
		return err
	}
	u.ID, u.UpdatedAt = id, new(m.clock())
	u.AllowedTiers, u.Capabilities = orEmpty(u.AllowedTiers), orEmpty(u.Capabilities)
	text := `UPDATE cluster_state SET updated_at = :updated_at` + assignments(clusterSets, u.Set)
	if slices.Contains(u.Set, "status") {
		// It is the time of the last change of the status, not of the last update.
		text += `, status_since = CASE WHEN CAST(:status AS cluster_status) <> status THEN :updated_at ELSE status_since END`
	}
	text += ` WHERE id = CAST(:id AS bigint)`
	return m.transact(ctx, func(tx *sqlx.Tx) error {
		if slices.Contains(u.Set, "name") {
			if err := reserveClusterName(ctx, tx, u.Name, number); err != nil {
				return err
			}
		}
		hit, err := rowsHit(tx.NamedExecContext(ctx, text, u))
		if err == nil && hit == 0 {
			return missingCluster(id)
		}
		return err
	})
}

// DeleteCluster deletes a cluster of the table, or returns MissingResource.
func (m *Manager) DeleteCluster(ctx context.Context, id string) error {
	number, err := clusterNumber(id)
	if err != nil {
		return err
	}
	hit, err := m.exec(ctx, `DELETE FROM cluster_state WHERE id = $1`, number)
	if err == nil && hit == 0 {
		return missingCluster(id)
	}
	return err
}

// Capability is something that Jobs may count on in a cluster. A cluster has those that its row names, and those that
// its kind implies unless the row names them with a leading "no-" (docs/kubernetes.md).
type Capability string

const (
	// CapabilityCapacityType: the label karpenter.sh/capacity-type of a node is spot or on-demand.
	CapabilityCapacityType Capability = "capacity-type-affinity"
	// CapabilityArch: nodes are chosen by the label kubernetes.io/arch.
	CapabilityArch Capability = "arch-affinity"
	// CapabilitySharedPool: teams share pools of nodes instead of having their own.
	CapabilitySharedPool Capability = "shared-pool"
	// CapabilityPoolSizing: a team's nodes are divided by the size of runs.
	CapabilityPoolSizing Capability = "pool-sizing"
)

// withoutPrefix before a capability's name takes it away.
const withoutPrefix = "no-"

// Capabilities is a set of capabilities. The nil set is empty.
type Capabilities map[Capability]bool

// Has reports whether the set holds a capability.
func (c Capabilities) Has(capability Capability) bool { return c[capability] }

// EffectiveCapabilities returns the capabilities that the cluster's row names and the implied ones, without those that
// the row takes away.
func (c Cluster) EffectiveCapabilities(implied ...Capability) Capabilities {
	set := Capabilities{}
	for _, capability := range implied {
		set[capability] = true
	}
	for _, named := range c.Capabilities {
		set[Capability(strings.TrimSpace(named))] = true
	}
	for _, named := range c.Capabilities {
		if gone, ok := strings.CutPrefix(strings.TrimSpace(named), withoutPrefix); ok {
			delete(set, Capability(gone))
		}
	}
	return set
}
