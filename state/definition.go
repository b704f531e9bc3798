package state

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// Definition is a containerised job that users run by its id or alias. Memory
// and storage in MB, cpu in millicores. The db tags are the columns of
// task_def; ports and tags are tables of their own.
type Definition struct {
	DefinitionID               string   `db:"definition_id"`
	GroupName                  string   `db:"group_name"`
	Alias                      string   `db:"alias"`
	Command                    *string  `db:"command"`
	TaskType                   string   `db:"task_type"`
	RequiresDocker             bool     `db:"requires_docker"`
	TargetCluster              *string  `db:"target_cluster"`
	Image                      string   `db:"image"`
	Memory                     *int64   `db:"memory"`
	CPU                        *int64   `db:"cpu"`
	GPU                        *int64   `db:"gpu"`
	EphemeralStorage           *int64   `db:"ephemeral_storage"`
	Env                        EnvList  `db:"env"`
	Privileged                 *bool    `db:"privileged"`
	AdaptiveResourceAllocation *bool    `db:"adaptive_resource_allocation"`
	Ports                      []int64  `db:"-"`
	Tags                       []string `db:"-"`
	// Version changes with every change of the row, whoever makes it; CreateRun compares it.
	Version string `db:"version"`
}

// GetExecutableID implements Executable.
func (d Definition) GetExecutableID() *string { return &d.DefinitionID }

// GetExecutableType implements Executable.
func (d Definition) GetExecutableType() ExecutableType { return ExecutableTypeDefinition }

// GetExecutableCommand is the command of a run that does not bring its own.
func (d Definition) GetExecutableCommand(ExecutionRequest) (string, error) {
	if d.Command == nil {
		return "", nil
	}
	return *d.Command, nil
}

// GetExecutableResources implements Executable.
func (d Definition) GetExecutableResources() ExecutableResources {
	return ExecutableResources{
		Image: d.Image, Memory: d.Memory, CPU: d.CPU, GPU: d.GPU,
		EphemeralStorage: d.EphemeralStorage, Env: d.Env, Ports: d.Ports, Tags: d.Tags,
		Privileged: d.Privileged, RequiresDocker: d.RequiresDocker,
		AdaptiveResourceAllocation: d.AdaptiveResourceAllocation,
	}
}

// DefinitionUpdate changes the fields of a definition that Set names by their
// columns (ports and tags too). A zero value clears what may be absent.
type DefinitionUpdate struct {
	Definition
	Set Columns `db:"set"`
}

// definitionColumns are the columns of table task_def that make a Definition,
// with its ports and tags; the one list of them. In existing databases tags
// have no key, so one may be there twice, and the old program stored ”.
const definitionColumns = `
	task_def.definition_id,
	COALESCE(task_def.group_name, '') AS group_name,
	COALESCE(task_def.alias, '') AS alias,
	task_def.command,
	COALESCE(task_def.task_type, '') AS task_type,
	COALESCE(task_def.requires_docker, false) AS requires_docker,
	task_def.target_cluster,
	COALESCE(task_def.image, '') AS image,
	task_def.memory,
	task_def.cpu,
	task_def.gpu,
	task_def.ephemeral_storage,
	task_def.env,
	task_def.privileged,
	task_def.adaptive_resource_allocation,
	-- The transaction that wrote the row.
	CAST(task_def.xmin AS text) AS version,
	ARRAY(
		SELECT port FROM task_def_ports
		WHERE task_def_id = task_def.definition_id ORDER BY port
	) AS ports,
	ARRAY(
		SELECT DISTINCT tag_id FROM task_def_tags
		WHERE task_def_id = task_def.definition_id AND tag_id <> '' ORDER BY tag_id
	) AS tags`

// definitionRow is a Definition with the columns that are other tables.
type definitionRow struct {
	Definition
	PortList pq.Int64Array  `db:"ports"`
	TagList  pq.StringArray `db:"tags"`
}

func (r definitionRow) definition() Definition {
	r.Ports, r.Tags = r.PortList, r.TagList
	return r.Definition
}

// What a definition is found by, see definitionKey.
const (
	definitionByIDSQL    = `SELECT ` + definitionColumns + ` FROM task_def WHERE definition_id = :key`
	definitionByAliasSQL = `SELECT ` + definitionColumns + ` FROM task_def WHERE alias = :key`
)

type definitionKey struct {
	Key string `db:"key"`
}

// GetDefinition reads a definition by its id.
func (m *Manager) GetDefinition(ctx context.Context, id string) (Definition, error) {
	d, err := m.selectDefinition(ctx, definitionByIDSQL, id)
	if errors.Is(err, sql.ErrNoRows) {
		return Definition{}, missingDefinition(id)
	}
	return d, err
}

func missingDefinition(id string) error { return Missingf("there is no definition with the id %q", id) }

// GetDefinitionByAlias reads a definition by its alias.
func (m *Manager) GetDefinitionByAlias(ctx context.Context, alias string) (Definition, error) {
	d, err := m.selectDefinition(ctx, definitionByAliasSQL, alias)
	if errors.Is(err, sql.ErrNoRows) {
		return Definition{}, Missingf("there is no definition with the alias %q", alias)
	}
	return d, err
}

// selectDefinition reads the one definition that text finds by key. The
// statement stays prepared because every submission begins with it.
func (m *Manager) selectDefinition(ctx context.Context, text, key string) (Definition, error) {
	if err := checkText("id", key); err != nil {
		return Definition{}, sql.ErrNoRows // No stored key holds such characters.
	}
	read, err := m.named(ctx, text)
	if err != nil {
		return Definition{}, err
	}
	return readDefinition(ctx, read, key)
}

func readDefinition(ctx context.Context, read *sqlx.NamedStmt, key string) (Definition, error) {
	var row definitionRow
	if err := read.GetContext(ctx, &row, definitionKey{key}); err != nil {
		return Definition{}, interpretError(err)
	}
	return row.definition(), nil
}

// The old program demands container_name, which it set to the id.
const insertDefinitionSQL = `
INSERT INTO task_def (
	definition_id, group_name, alias, command, task_type, requires_docker, target_cluster, image, memory, cpu, gpu,
	ephemeral_storage, env, privileged, adaptive_resource_allocation, container_name
) VALUES (
	:definition_id, :group_name, :alias, NULLIF(:command, ''), :task_type, :requires_docker, NULLIF(:target_cluster, ''),
	:image, :memory, :cpu, :gpu, :ephemeral_storage, :env, :privileged, :adaptive_resource_allocation, :definition_id
)`

// CreateDefinition stores a definition, whose id the caller made. An alias
// that another has is a ConflictingResource.
func (m *Manager) CreateDefinition(ctx context.Context, d Definition) error {
	return m.transact(ctx, func(tx *sqlx.Tx) error {
		if _, err := tx.NamedExecContext(ctx, insertDefinitionSQL, d); err != nil {
			return aliasTaken(err, d.Alias)
		}
		if err := setPorts(ctx, tx, d.DefinitionID, d.Ports); err != nil {
			return err
		}
		return setTags(ctx, tx, d.DefinitionID, d.Tags)
	})
}

// aliasTaken gives a duplicate key its sentence.
func aliasTaken(err error, alias string) error {
	err = interpretError(err)
	var conflict ConflictingResource
	if errors.As(err, &conflict) {
		return Conflictingf("the alias %q is taken by another definition", alias)
	}
	return err
}

// definitionSets assigns each column that an update may set. An empty text
// clears what may be absent.
var definitionSets = []string{
	"group_name = :group_name", "alias = :alias", "command = NULLIF(:command, '')", "task_type = :task_type",
	"requires_docker = :requires_docker", "target_cluster = NULLIF(:target_cluster, '')", "image = :image",
	"memory = :memory", "cpu = :cpu", "gpu = :gpu", "ephemeral_storage = :ephemeral_storage", "env = :env",
	"adaptive_resource_allocation = :adaptive_resource_allocation",
}

// assignments joins those of sets whose column is in set.
func assignments(sets []string, set Columns) string {
	var chosen strings.Builder
	for _, assignment := range sets {
		if column, _, _ := strings.Cut(assignment, " "); slices.Contains(set, column) {
			chosen.WriteString(", " + assignment)
		}
	}
	return chosen.String()
}

// UpdateDefinition sets the fields that u names and returns the whole.
func (m *Manager) UpdateDefinition(ctx context.Context, id string, u DefinitionUpdate) (Definition, error) {
	u.DefinitionID = id
	text := `UPDATE task_def SET definition_id = :definition_id` + assignments(definitionSets, u.Set) + ` WHERE definition_id = :definition_id`
	var updated Definition
	err := m.transact(ctx, func(tx *sqlx.Tx) error {
		result, err := tx.NamedExecContext(ctx, text, u)
		if err != nil {
			return aliasTaken(err, u.Alias)
		}
		if err := demandRow(result, missingDefinition(id)); err != nil {
			return err
		}
		if slices.Contains(u.Set, "ports") {
			if err := setPorts(ctx, tx, id, u.Ports); err != nil {
				return err
			}
		}
		if slices.Contains(u.Set, "tags") {
			if err := setTags(ctx, tx, id, u.Tags); err != nil {
				return err
			}
		}
		// Not by Manager.named, which might wait for a second connection.
		read, err := tx.PrepareNamedContext(ctx, definitionByIDSQL)
		if err != nil {
			return err
		}
		defer func() { _ = read.Close() }()
		updated, err = readDefinition(ctx, read, id)
		return err
	})
	return updated, err
}

// demandRow returns missing where a statement hit no row.
func demandRow(result sql.Result, missing error) error {
	hit, err := result.RowsAffected()
	if err == nil && hit == 0 {
		return missing
	}
	return err
}

// deref is what p points to, or the zero value.
func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func setPorts(ctx context.Context, tx *sqlx.Tx, id string, ports []int64) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM task_def_ports WHERE task_def_id = $1`, id); err != nil || len(ports) == 0 {
		return err
	}
	_, err := tx.ExecContext(ctx,
		`INSERT INTO task_def_ports (task_def_id, port) SELECT DISTINCT $1, unnest($2::int[])`, id, pq.Array(ports))
	return err
}

func setTags(ctx context.Context, tx *sqlx.Tx, id string, tags []string) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM task_def_tags WHERE task_def_id = $1`, id); err != nil || len(tags) == 0 {
		return err
	}
	// In order, so that two transactions that add the same tags do not wait
	// for each other.
	sorted := slices.Compact(slices.Sorted(slices.Values(tags)))
	sorted = slices.DeleteFunc(sorted, func(tag string) bool { return tag == "" })
	_, err := tx.ExecContext(ctx,
		`INSERT INTO tags (text) SELECT unnest($1::varchar[]) ON CONFLICT (text) DO NOTHING`, pq.Array(sorted))
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx,
		`INSERT INTO task_def_tags (task_def_id, tag_id) SELECT $1, unnest($2::varchar[])`, id, pq.Array(sorted))
	return err
}

const selectHasLiveRunsSQL = `SELECT EXISTS (SELECT FROM task WHERE definition_id = $1 AND status <> 'STOPPED')`

// DeleteDefinition deletes a definition with its ports and tags. While a run
// of it is not STOPPED that is a ConflictingResource. Its runs are deleted
// later, in batches, by DeleteOrphanRuns.
//
// The row lock keeps runs from being created meanwhile: CreateRun takes a
// share lock on the same row.
func (m *Manager) DeleteDefinition(ctx context.Context, id string) error {
	return m.transact(ctx, func(tx *sqlx.Tx) error {
		result, err := tx.ExecContext(ctx, `SELECT FROM task_def WHERE definition_id = $1 FOR UPDATE`, id)
		if err != nil {
			return err
		}
		if err := demandRow(result, missingDefinition(id)); err != nil {
			return err
		}
		var live bool
		if err := tx.GetContext(ctx, &live, selectHasLiveRunsSQL, id); err != nil {
			return err
		}
		if live {
			return Conflictingf("the definition %q has runs that are not stopped; stop them first", id)
		}
		for _, statement := range []string{
			`DELETE FROM task_def_ports WHERE task_def_id = $1`,
			`DELETE FROM task_def_tags WHERE task_def_id = $1`,
			`DELETE FROM task_def WHERE definition_id = $1`,
		} {
			if _, err := tx.ExecContext(ctx, statement, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// GetExecutable reads a definition or template, in one query.
func (m *Manager) GetExecutable(ctx context.Context, typ ExecutableType, id string) (Executable, error) {
	switch typ {
	case ExecutableTypeDefinition:
		return m.GetDefinition(ctx, id)
	case ExecutableTypeTemplate:
		return m.GetTemplate(ctx, id)
	}
	return nil, Malformedf("there is no executable type %q", typ)
}
