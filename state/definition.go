package state

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// Definition is a containerised job that users run by its id or alias. Memory and storage are in MB, cpu in millicores.
// The db tags are the columns of task_def; ports and tags are in tables of their own.
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
	// Version changes with every change of the row, by any program. CreateRun compares it.
	Version string `db:"version"`
}

// DefinitionUpdate changes the fields of a definition that Set names by their columns, ports and tags included. A zero
// value clears what may be absent.
type DefinitionUpdate struct {
	Definition
	Set Columns `db:"set"`
}

// NewDefinitionID returns a new id of a definition: its group, with a dash for every character outside [A-Za-z0-9_.-],
// a dash, and a random UUID.
func NewDefinitionID(group string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z', r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_', r == '.', r == '-':
			return r
		}
		return '-'
	}, group)
	return clean + "-" + uuid.NewString()
}

// GetExecutableID implements Executable.
func (d Definition) GetExecutableID() *string { return &d.DefinitionID }

// GetExecutableType implements Executable.
func (d Definition) GetExecutableType() ExecutableType { return ExecutableTypeDefinition }

// GetExecutableCommand returns the command of a run that brings none.
func (d Definition) GetExecutableCommand(ExecutionRequest) (string, error) {
	return deref(d.Command), nil
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

// definitionSQL reads Definitions. Tags have no key in existing databases, so one may be there twice, and the old
// program stored the empty one.
const (
	definitionSQL     = `SELECT ` + definitionColumns + ` FROM task_def WHERE `
	definitionColumns = `
	task_def.definition_id,
	COALESCE(task_def.group_name, '') AS group_name,
	COALESCE(task_def.alias, '') AS alias,
	task_def.command,
	COALESCE(task_def.task_type, '') AS task_type,
	COALESCE(task_def.requires_docker, false) AS requires_docker,
	task_def.target_cluster,
	COALESCE(task_def.image, '') AS image,
	task_def.memory, task_def.cpu, task_def.gpu, task_def.ephemeral_storage,
	task_def.env, task_def.privileged, task_def.adaptive_resource_allocation,
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
)

// definitionRow is a row of definitionColumns.
type definitionRow struct {
	Definition
	RawEnv   []byte         `db:"env"`
	PortList pq.Int64Array  `db:"ports"`
	TagList  pq.StringArray `db:"tags"`
}

func (m *Manager) definitionOf(ctx context.Context, row *definitionRow) Definition {
	d := &row.Definition
	d.Ports, d.Tags = row.PortList, row.TagList
	m.readColumns(ctx, "definition_id", d.DefinitionID, jsonColumn{"env", row.RawEnv, &d.Env})
	return *d
}

// GetDefinition returns the definition with that id, or MissingResource.
func (m *Manager) GetDefinition(ctx context.Context, id string) (Definition, error) {
	return m.findDefinition(ctx, "id", definitionSQL+`definition_id = :key`, id)
}

// GetDefinitionByAlias returns the definition with that alias, or MissingResource.
func (m *Manager) GetDefinitionByAlias(ctx context.Context, alias string) (Definition, error) {
	return m.findDefinition(ctx, "alias", definitionSQL+`alias = :key`, alias)
}

// findDefinition returns the one definition that text finds by key. The statement stays prepared because every
// submission begins with it.
func (m *Manager) findDefinition(ctx context.Context, what, text, key string) (Definition, error) {
	missing := Missingf("there is no definition with the %s %q", what, key)
	if checkText(what, key) != nil {
		return Definition{}, missing // No stored key holds such characters.
	}
	read, err := m.named(ctx, text) //nolint:sqlclosecheck // it is kept
	if err != nil {
		return Definition{}, err
	}
	var row definitionRow
	err = read.GetContext(ctx, &row, map[string]any{"key": key})
	if errors.Is(err, sql.ErrNoRows) {
		return Definition{}, missing
	}
	if err != nil {
		return Definition{}, interpretError(err)
	}
	return m.definitionOf(ctx, &row), nil
}

func missingDefinition(id string) error { return Missingf("there is no definition with the id %q", id) }

// definitionSets assigns each column that an update may set, see assignments. An empty text clears what may be absent.
var definitionSets = []string{
	"group_name", "alias", "command = NULLIF(:command, '')", "task_type", "requires_docker",
	"target_cluster = NULLIF(:target_cluster, '')", "image", "memory", "cpu", "gpu", "ephemeral_storage", "env",
	"adaptive_resource_allocation",
}

// The old program demands container_name, which it set to the id.
var insertDefinitionSQL = insertSQL("task_def", definitionSets, "definition_id", "privileged", "container_name = :definition_id")

// CreateDefinition stores a definition, whose id the caller made. It returns ConflictingResource if another definition
// has the alias.
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

// aliasTaken returns err, with a sentence of its own for a duplicate key.
func aliasTaken(err error, alias string) error {
	err = interpretError(err)
	var conflict ConflictingResource
	if errors.As(err, &conflict) {
		return Conflictingf("the alias %q is taken by another definition", alias)
	}
	return err
}

// UpdateDefinition sets the fields that u names and returns the whole definition. It returns MissingResource if there
// is none, and ConflictingResource if another has the alias.
func (m *Manager) UpdateDefinition(ctx context.Context, id string, u DefinitionUpdate) (Definition, error) {
	u.DefinitionID = id
	text := `UPDATE task_def SET definition_id = :definition_id` + assignments(definitionSets, u.Set) + ` WHERE definition_id = :definition_id`
	var updated Definition
	err := m.transact(ctx, func(tx *sqlx.Tx) error {
		hit, err := rowsHit(tx.NamedExecContext(ctx, text, u))
		switch {
		case err != nil:
			return aliasTaken(err, u.Alias)
		case hit == 0:
			return missingDefinition(id)
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
		var row definitionRow
		if err := tx.GetContext(ctx, &row, definitionSQL+`definition_id = $1`, id); err != nil {
			return err
		}
		updated = m.definitionOf(ctx, &row)
		return nil
	})
	return updated, err
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
	// Sorted, so that two transactions that add the same tags do not deadlock.
	sorted := slices.Compact(slices.Sorted(slices.Values(withoutEmpty(tags))))
	_, err := tx.ExecContext(ctx,
		`INSERT INTO tags (text) SELECT unnest($1::varchar[]) ON CONFLICT (text) DO NOTHING`, pq.Array(sorted))
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx,
		`INSERT INTO task_def_tags (task_def_id, tag_id) SELECT $1, unnest($2::varchar[])`, id, pq.Array(sorted))
	return err
}

// DeleteDefinition deletes a definition with its ports and tags. It returns ConflictingResource if a run of it is not
// STOPPED. DeleteOrphanRuns deletes its runs later, in batches.
//
// The row lock keeps runs from being created meanwhile: CreateRun takes a share lock on the same row.
func (m *Manager) DeleteDefinition(ctx context.Context, id string) error {
	return m.transact(ctx, func(tx *sqlx.Tx) error {
		hit, err := rowsHit(tx.ExecContext(ctx, `SELECT FROM task_def WHERE definition_id = $1 FOR UPDATE`, id))
		switch {
		case err != nil:
			return err
		case hit == 0:
			return missingDefinition(id)
		}
		var live bool
		err = tx.GetContext(ctx, &live, `SELECT EXISTS (SELECT FROM task WHERE definition_id = $1 AND status <> 'STOPPED')`, id)
		if err != nil {
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
