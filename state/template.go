package state

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"math/big"
	"slices"

	"github.com/google/uuid"
)

// Template is a command with placeholders and the schema of the payload that fills them. Memory and storage are in MB,
// cpu in millicores. The db tags are the columns of the table template.
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

// NewTemplateID returns a new id of a template: "tpl-" and a random UUID without its first four characters.
func NewTemplateID() string { return "tpl-" + uuid.NewString()[4:] }

// templateColumns are the columns of table template that make a Template; the one list of them. gpu cannot be NULL
// there and is 0 if none is wanted.
const templateColumns = `
	template.template_id,
	COALESCE(template.template_name, '') AS template_name,
	COALESCE(template.version, 0) AS version,
	COALESCE(template.command_template, '') AS command_template,
	COALESCE(template.avatar_uri, '') AS avatar_uri,
	COALESCE(template.image, '') AS image,
	template.memory, template.cpu, NULLIF(template.gpu, 0) AS gpu, template.ephemeral_storage,
	template.schema, template.defaults, template.env, template.ports, template.tags,
	template.privileged, template.adaptive_resource_allocation`

// templateRow is a row of templateColumns. Its jsonb columns may have any shape.
type templateRow struct {
	Template
	RawSchema   []byte `db:"schema"`
	RawDefaults []byte `db:"defaults"`
	RawEnv      []byte `db:"env"`
	RawPorts    []byte `db:"ports"`
	RawTags     []byte `db:"tags"`
}

func (m *Manager) templateOf(ctx context.Context, row *templateRow) Template {
	t := &row.Template
	m.readColumns(ctx, "template_id", t.TemplateID,
		jsonColumn{"schema", row.RawSchema, &t.Schema},
		jsonColumn{"defaults", row.RawDefaults, &t.Defaults},
		jsonColumn{"env", row.RawEnv, &t.Env},
		jsonColumn{"ports", row.RawPorts, &t.Ports},
		jsonColumn{"tags", row.RawTags, &t.Tags})
	t.Tags = withoutEmpty(t.Tags)
	return *t
}

// withoutEmpty returns tags without the empty ones, which the old program stored.
func withoutEmpty(tags []string) []string {
	return slices.DeleteFunc(slices.Clone(tags), func(tag string) bool { return tag == "" })
}

// GetTemplate returns the template with that id, or MissingResource.
func (m *Manager) GetTemplate(ctx context.Context, id string) (Template, error) {
	return m.findTemplate(ctx, Missingf("there is no template with the id %q", id), `template_id = $1`, id)
}

// GetTemplateVersion returns a version of the template of that name, the latest if version is nil, or MissingResource.
func (m *Manager) GetTemplateVersion(ctx context.Context, name string, version *int64) (Template, error) {
	missing := Missingf("there is no template with the name %q", name)
	if version != nil {
		missing = Missingf("the template %q has no version %d", name, *version)
		if !fitsInteger(*version) {
			return Template{}, missing
		}
	}
	return m.findTemplate(ctx, missing,
		`template_name = $1 AND (version = $2 OR $2 IS NULL) ORDER BY version DESC LIMIT 1`, name, version)
}

// findTemplate returns the one template that the condition finds by key, which is $1, and more, or missing.
func (m *Manager) findTemplate(ctx context.Context, missing error, condition, key string, more ...any) (Template, error) {
	if checkText("id", key) != nil {
		return Template{}, missing // No stored key holds such characters.
	}
	var row templateRow
	err := m.db.GetContext(ctx, &row, `SELECT `+templateColumns+` FROM template WHERE `+condition, append([]any{key}, more...)...)
	if errors.Is(err, sql.ErrNoRows) {
		return Template{}, missing
	}
	if err != nil {
		return Template{}, interpretError(err)
	}
	return m.templateOf(ctx, &row), nil
}

// The old program demands container_name, which it set to the id.
var insertTemplateSQL = insertSQL("template", []string{
	"template_id", "template_name", "version", "schema", "command_template", "defaults", "avatar_uri", "image", "memory",
	"cpu", "gpu = COALESCE(:gpu, 0)", "ephemeral_storage", "env", "privileged", "adaptive_resource_allocation", "ports",
	"tags", "container_name = :template_id",
}) + ` ON CONFLICT (template_name, version) DO NOTHING`

// templateAttempts bounds how often CreateTemplate tries again after it lost a version to another call. Each loss is
// the other's success.
const templateAttempts = 100

// CreateTemplate stores t as the next version of its name and returns it as stored, and true. If the latest version
// differs in nothing but id and version, it returns that one, and false. Memory and CPU must be set; empty tags are
// dropped.
func (m *Manager) CreateTemplate(ctx context.Context, t Template) (Template, bool, error) {
	if t.GPU != nil && *t.GPU == 0 {
		t.GPU = nil
	}
	t.Tags = withoutEmpty(t.Tags)
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
		// No row is hit if another call has the version.
		hit, err := rowsHit(m.db.NamedExecContext(ctx, insertTemplateSQL, t))
		if err != nil || hit == 1 {
			return t, hit == 1, interpretError(err)
		}
	}
	return Template{}, false, Conflictingf("the template %q is being changed by others; try again", t.TemplateName)
}

// sameTemplate reports whether a and b differ in nothing but id and version. JSON is compared by value, because 1e2 is
// read back as 100. Absent equals empty, and false for privileged.
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
