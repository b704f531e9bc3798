package state

import "encoding/json"

// Template is a command with holes, and a schema of what fills them. Memory
// and storage in MB, cpu in millicores. The db tags are the columns of the
// table template.
type Template struct {
	TemplateID                 string  `db:"template_id" json:"template_id"`
	TemplateName               string  `db:"template_name" json:"template_name"`
	Version                    int64   `db:"version" json:"version"`
	Schema                     Object  `db:"schema" json:"schema"`
	CommandTemplate            string  `db:"command_template" json:"command_template"`
	Defaults                   Object  `db:"defaults" json:"defaults"`
	AvatarURI                  string  `db:"avatar_uri" json:"avatar_uri"`
	Image                      string  `db:"image" json:"image"`
	Memory                     *int64  `db:"memory" json:"memory,omitempty"`
	CPU                        *int64  `db:"cpu" json:"cpu,omitempty"`
	GPU                        *int64  `db:"gpu" json:"gpu,omitempty"`
	EphemeralStorage           *int64  `db:"ephemeral_storage" json:"ephemeral_storage,omitempty"`
	Env                        EnvList `db:"env" json:"env"`
	Privileged                 *bool   `db:"privileged" json:"-"`
	AdaptiveResourceAllocation *bool   `db:"adaptive_resource_allocation" json:"adaptive_resource_allocation,omitempty"`
	Ports                      Ports   `db:"ports" json:"ports,omitempty"`
	Tags                       Strings `db:"tags" json:"tags,omitempty"`
}

// MarshalJSON writes the REST resource "Template".
func (t Template) MarshalJSON() ([]byte, error) {
	type fields Template
	if t.Env == nil {
		t.Env = EnvList{}
	}
	if t.Schema == nil {
		t.Schema = Object{}
	}
	if t.Defaults == nil {
		t.Defaults = Object{}
	}
	return json.Marshal(fields(t))
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
