package state

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"math/big"

	"github.com/jmoiron/sqlx"
)

// Template is a command with holes, and a schema of what fills them. Memory
// and storage in MB, cpu in millicores. The db tags are the columns of the
// table template.
type Template struct {
	TemplateID                 string  `db:"template_id"`
	TemplateName               string  `db:"template_name"`
	Version                    int64   `db:"version"`
	Schema                     Object  `db:"schema"`
	CommandTemplate            string  `db:"command_template"`
	Defaults                   Object  `db:"defaults"`
	AvatarURI                  string  `db:"avatar_uri"`
	Image                      string  `db:"image"`
	Memory                     *int64  `db:"memory"`
	CPU                        *int64  `db:"cpu"`
	GPU                        *int64  `db:"gpu"`
	EphemeralStorage           *int64  `db:"ephemeral_storage"`
	Env                        EnvList `db:"env"`
	Privileged                 *bool   `db:"privileged"`
	AdaptiveResourceAllocation *bool   `db:"adaptive_resource_allocation"`
	Ports                      Ports   `db:"ports"`
	Tags                       Strings `db:"tags"`
}

// GetExecutableID implements Executable.
func (t Template) GetExecutableID() *string { return &t.TemplateID }

// GetExecutableType implements Executable.
func (t Template) GetExecutableType() ExecutableType { return ExecutableTypeTemplate }

// GetExecutableResources implements Executable.
func (t Template) GetExecutableResources() ExecutableResources {
	return ExecutableResources{
		Image: t.Image, Memory: t.Memory, CPU: t.CPU, GPU: t.GPU,
		EphemeralStorage: t.EphemeralStorage, Env: t.Env, Ports: t.Ports, Tags: t.Tags,
		Privileged: t.Privileged, AdaptiveResourceAllocation: t.AdaptiveResourceAllocation,
	}
}

// templateColumns are the columns of table template that make a Template; the
// one list of them. gpu cannot be NULL there and is 0 where none is wanted.
const templateColumns = `
	template.template_id,
	COALESCE(template.template_name, '') AS template_name,
	COALESCE(template.version, 0) AS version,
	template.schema,
	COALESCE(template.command_template, '') AS command_template,
	template.defaults,
	COALESCE(template.avatar_uri, '') AS avatar_uri,
	COALESCE(template.image, '') AS image,
	template.memory,
	template.cpu,
	NULLIF(template.gpu, 0) AS gpu,
	template.ephemeral_storage,
	template.env,
	template.privileged,
	template.adaptive_resource_allocation,
	template.ports,
	template.tags`

// GetTemplate reads a template by its id.
func (m *Manager) GetTemplate(ctx context.Context, id string) (Template, error) {
	t, err := m.selectTemplate(ctx, `SELECT `+templateColumns+` FROM template WHERE template_id = $1`, id)
	if errors.Is(err, sql.ErrNoRows) {
		return Template{}, Missingf("there is no template with the id %q", id)
	}
	return t, err
}

const selectTemplateVersionSQL = `SELECT ` + templateColumns + ` FROM template
WHERE template_name = $1 AND (version = $2 OR $2 IS NULL)
ORDER BY version DESC
LIMIT 1`

// GetTemplateVersion reads a version of the template of that name, the latest
// where version is nil.
func (m *Manager) GetTemplateVersion(ctx context.Context, name string, version *int64) (Template, error) {
	missing := Missingf("there is no template with the name %q", name)
	if version != nil {
		missing = Missingf("the template %q has no version %d", name, *version)
		if !fitsInteger(*version) {
			return Template{}, missing
		}
	}
	t, err := m.selectTemplate(ctx, selectTemplateVersionSQL, name, version)
	if errors.Is(err, sql.ErrNoRows) {
		return Template{}, missing
	}
	return t, err
}

// selectTemplate reads the one template that query finds by key.
func (m *Manager) selectTemplate(ctx context.Context, query, key string, more ...any) (Template, error) {
	if err := checkText("id", key); err != nil {
		return Template{}, sql.ErrNoRows // No stored key holds such characters.
	}
	var t Template
	err := m.db.GetContext(ctx, &t, query, append([]any{key}, more...)...)
	return t, interpretError(err)
}

// The other program's column container_name must not be NULL.
const insertTemplateSQL = `
INSERT INTO template (
	template_id, template_name, version, schema, command_template, defaults, avatar_uri, image, memory, cpu, gpu,
	ephemeral_storage, env, privileged, adaptive_resource_allocation, ports, tags, container_name
) VALUES (
	:template_id, :template_name, :version, :schema, :command_template, :defaults, :avatar_uri, :image, :memory, :cpu,
	COALESCE(:gpu, 0), :ephemeral_storage, :env, :privileged, :adaptive_resource_allocation, :ports, :tags, :template_id
)
ON CONFLICT (template_name, version) DO NOTHING`

// templateAttempts bounds how often a create is tried again that lost its
// version to another; each loss is another's success.
const templateAttempts = 100

// CreateTemplate stores t as the next version of its name and returns it as
// stored. Where the latest version differs in nothing but id and version, that
// one is answered, and false. Memory and CPU must be set.
func (m *Manager) CreateTemplate(ctx context.Context, t Template) (Template, bool, error) {
	if t.GPU != nil && *t.GPU == 0 {
		t.GPU = nil
	}
	for range templateAttempts {
		latest, err := m.GetTemplateVersion(ctx, t.TemplateName, nil)
		var missing MissingResource
		switch {
		case errors.As(err, &missing):
			t.Version = 1
		case err != nil:
			return Template{}, false, err
		default:
			same, err := sameTemplate(t, latest)
			if err != nil || same {
				return latest, false, err
			}
			t.Version = latest.Version + 1
		}
		created, err := m.insertTemplate(ctx, t)
		if err != nil || created {
			return t, created, err
		}
	}
	return Template{}, false, Conflictingf("the template %q is being changed by others; try again", t.TemplateName)
}

// insertTemplate reports false where another has the version.
func (m *Manager) insertTemplate(ctx context.Context, t Template) (bool, error) {
	query, args, err := sqlx.Named(insertTemplateSQL, t)
	if err != nil {
		return false, err
	}
	result, err := m.db.ExecContext(ctx, m.db.Rebind(query), args...)
	if err != nil {
		return false, interpretError(err)
	}
	hit, err := result.RowsAffected()
	return hit == 1, err
}

// sameTemplate reports whether all but id and version are equal, JSON by value: 1e2 is read back as 100. Absent equals
// empty, and false for privileged.
func sameTemplate(a, b Template) (bool, error) {
	var raw [2][]byte
	for i, t := range []Template{a, b} {
		t.TemplateID, t.Version, t.Privileged = "", 0, new(deref(t.Privileged))
		t.Env = append(EnvList{}, t.Env...)
		t.Ports, t.Tags = append(Ports{}, t.Ports...), append(Strings{}, t.Tags...)
		for _, o := range []*Object{&t.Schema, &t.Defaults} {
			if *o == nil {
				*o = Object{}
			}
			*o, _ = withRationals(map[string]any(*o)).(map[string]any) // an object stays one
		}
		var err error
		if raw[i], err = json.Marshal(t); err != nil {
			return false, err
		}
	}
	return bytes.Equal(raw[0], raw[1]), nil
}

// withRationals returns a copy of a JSON value in which equal numbers are written alike.
func withRationals(value any) any {
	switch v := value.(type) {
	case json.Number:
		if number, ok := new(big.Rat).SetString(v.String()); ok {
			return []any{number.RatString()}
		}
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, member := range v {
			out[name] = withRationals(member)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = withRationals(item)
		}
		return out
	}
	return value
}
