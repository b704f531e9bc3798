package state

import "encoding/json"

// Definition is a containerised job that users run by its id or alias. Memory
// and storage in MB, cpu in millicores. The db tags are the columns of
// task_def; ports and tags are tables of their own.
type Definition struct {
	DefinitionID               string   `db:"definition_id" json:"definition_id"`
	GroupName                  string   `db:"group_name" json:"group_name,omitempty"`
	Alias                      string   `db:"alias" json:"alias"`
	Command                    *string  `db:"command" json:"command,omitempty"`
	TaskType                   string   `db:"task_type" json:"task_type,omitempty"`
	RequiresDocker             bool     `db:"requires_docker" json:"requires_docker,omitempty"`
	TargetCluster              *string  `db:"target_cluster" json:"target_cluster,omitempty"`
	Image                      string   `db:"image" json:"image"`
	Memory                     *int64   `db:"memory" json:"memory,omitempty"`
	CPU                        *int64   `db:"cpu" json:"cpu,omitempty"`
	GPU                        *int64   `db:"gpu" json:"gpu,omitempty"`
	EphemeralStorage           *int64   `db:"ephemeral_storage" json:"ephemeral_storage,omitempty"`
	Env                        EnvList  `db:"env" json:"env"`
	Privileged                 *bool    `db:"privileged" json:"-"`
	AdaptiveResourceAllocation *bool    `db:"adaptive_resource_allocation" json:"adaptive_resource_allocation,omitempty"`
	Ports                      []int64  `db:"-" json:"ports,omitempty"`
	Tags                       []string `db:"-" json:"tags,omitempty"`
	// Version changes with every change of the row, whoever makes it; CreateRun compares it.
	Version string `db:"version" json:"-"`
}

// MarshalJSON writes the REST resource "Definition".
func (d Definition) MarshalJSON() ([]byte, error) {
	type fields Definition
	if d.Env == nil {
		d.Env = EnvList{}
	}
	d.Command, d.TargetCluster = filled(d.Command), filled(d.TargetCluster)
	return json.Marshal(fields(d))
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

// DefinitionUpdate changes a definition; nil fields stay as they are.
type DefinitionUpdate struct {
	GroupName                  *string
	Alias                      *string
	Command                    *string
	TaskType                   *string
	RequiresDocker             *bool
	TargetCluster              *string
	Image                      *string
	Memory                     *int64
	CPU                        *int64
	GPU                        *int64
	EphemeralStorage           *int64
	Env                        *EnvList
	AdaptiveResourceAllocation *bool
	Ports                      *[]int64
	Tags                       *[]string
}
