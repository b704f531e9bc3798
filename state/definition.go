package state

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
