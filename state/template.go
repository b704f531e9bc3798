package state

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
