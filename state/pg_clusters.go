package state

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// clusterColumns are the columns of table cluster_state that make a Cluster;
// the one list of them.
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

// Names are not unique in existing databases; of rows with one name that with
// the lowest id counts.
const listClustersSQL = `SELECT DISTINCT ON (cluster_state.name) ` + clusterColumns + ` FROM cluster_state
ORDER BY cluster_state.name, cluster_state.id`

// ListClusters reads the clusters of the table, one for each name, by name.
func (m *Manager) ListClusters(ctx context.Context) ([]Cluster, error) {
	clusters := []Cluster{}
	err := m.db.SelectContext(ctx, &clusters, listClustersSQL)
	return clusters, interpretError(err)
}

// GetCluster reads a cluster by its id, a decimal number.
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

// clusterNumber is the key of the table that id stands for.
func clusterNumber(id string) (int64, error) {
	number, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return 0, missingCluster(id)
	}
	return number, nil
}

const insertClusterSQL = `
INSERT INTO cluster_state (
	name, cluster_version, status, status_reason, status_since, allowed_tiers, capabilities, updated_at, namespace,
	region, emr_virtual_cluster, spark_server_uri, driver
) VALUES (
	:name, :cluster_version, :status, :status_reason, :updated_at, :allowed_tiers, :capabilities, :updated_at, :namespace,
	:region, :emr_virtual_cluster, :spark_server_uri, NULLIF(:driver, '')
)`

// CreateCluster stores a cluster; its id is made here, and its times are now.
// No status means active. A taken name is a ConflictingResource.
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

// reserveClusterName makes sure that no other row has the name, until the
// transaction ends. There is no unique index to do it, because existing tables
// hold duplicates.
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

// clusterChange is a ClusterUpdate as arguments of updateClusterSQL.
type clusterChange struct {
	ID                int64           `db:"id"`
	Name              *string         `db:"name"`
	ClusterVersion    *string         `db:"cluster_version"`
	Status            *ClusterStatus  `db:"status"`
	StatusReason      *string         `db:"status_reason"`
	AllowedTiers      *pq.StringArray `db:"allowed_tiers"`
	Capabilities      *pq.StringArray `db:"capabilities"`
	Namespace         *string         `db:"namespace"`
	Region            *string         `db:"region"`
	EMRVirtualCluster *string         `db:"emr_virtual_cluster"`
	SparkServerURI    *string         `db:"spark_server_uri"`
	Now               time.Time       `db:"now"`
}

const updateClusterSQL = `
UPDATE cluster_state SET
	name = COALESCE(:name, name),
	cluster_version = COALESCE(:cluster_version, cluster_version),
	-- The time is that of the last change, not that of the last update.
	status_since = CASE
		WHEN CAST(:status AS cluster_status) <> status THEN :now
		ELSE status_since
	END,
	status = COALESCE(CAST(:status AS cluster_status), status),
	status_reason = COALESCE(:status_reason, status_reason),
	allowed_tiers = COALESCE(:allowed_tiers, allowed_tiers),
	capabilities = COALESCE(:capabilities, capabilities),
	namespace = COALESCE(:namespace, namespace),
	region = COALESCE(:region, region),
	emr_virtual_cluster = COALESCE(:emr_virtual_cluster, emr_virtual_cluster),
	spark_server_uri = COALESCE(:spark_server_uri, spark_server_uri),
	updated_at = :now
WHERE id = :id`

// UpdateCluster changes the fields that u names.
func (m *Manager) UpdateCluster(ctx context.Context, id string, u ClusterUpdate) error {
	number, err := clusterNumber(id)
	if err != nil {
		return err
	}
	change := clusterChange{
		ID: number, Name: u.Name, ClusterVersion: u.ClusterVersion, Status: u.Status, StatusReason: u.StatusReason,
		AllowedTiers: (*pq.StringArray)(u.AllowedTiers), Capabilities: (*pq.StringArray)(u.Capabilities),
		Namespace: u.Namespace, Region: u.Region, EMRVirtualCluster: u.EMRVirtualCluster,
		SparkServerURI: u.SparkServerURI, Now: m.clock(),
	}
	return m.transact(ctx, func(tx *sqlx.Tx) error {
		if u.Name != nil {
			if err := reserveClusterName(ctx, tx, *u.Name, number); err != nil {
				return err
			}
		}
		result, err := tx.NamedExecContext(ctx, updateClusterSQL, change)
		if err != nil {
			return err
		}
		return demandRow(result, missingCluster(id))
	})
}

// DeleteCluster deletes a cluster of the table.
func (m *Manager) DeleteCluster(ctx context.Context, id string) error {
	number, err := clusterNumber(id)
	if err != nil {
		return err
	}
	result, err := m.db.ExecContext(ctx, `DELETE FROM cluster_state WHERE id = $1`, number)
	if err != nil {
		return interpretError(err)
	}
	return demandRow(result, missingCluster(id))
}
