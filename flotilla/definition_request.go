package flotilla

import (
	"github.com/stitchfix/flotilla-os/state"
)

// definitionRequest is the body that creates or changes a definition. A nil
// field was not sent, or sent as null. Memory and storage in MB, cpu in
// millicores.
type definitionRequest struct {
	GroupName                  *string        `json:"group_name"`
	Alias                      *string        `json:"alias"`
	Command                    *string        `json:"command"`
	TaskType                   *string        `json:"task_type"`
	RequiresDocker             *bool          `json:"requires_docker"`
	TargetCluster              *string        `json:"target_cluster"`
	Image                      *string        `json:"image"`
	Memory                     *int64         `json:"memory"`
	CPU                        *int64         `json:"cpu"`
	GPU                        *int64         `json:"gpu"`
	EphemeralStorage           *int64         `json:"ephemeral_storage"`
	Env                        *state.EnvList `json:"env"`
	AdaptiveResourceAllocation *bool          `json:"adaptive_resource_allocation"`
	Ports                      *[]int64       `json:"ports"`
	Tags                       *[]string      `json:"tags"`
}

func (b *definitionRequest) definition() state.Definition {
	return state.Definition{
		GroupName:                  valueOf(b.GroupName),
		Alias:                      valueOf(b.Alias),
		Command:                    b.Command,
		TaskType:                   valueOf(b.TaskType),
		RequiresDocker:             valueOf(b.RequiresDocker),
		TargetCluster:              b.TargetCluster,
		Image:                      valueOf(b.Image),
		Memory:                     b.Memory,
		CPU:                        b.CPU,
		GPU:                        b.GPU,
		EphemeralStorage:           b.EphemeralStorage,
		Env:                        valueOf(b.Env),
		AdaptiveResourceAllocation: b.AdaptiveResourceAllocation,
		Ports:                      valueOf(b.Ports),
		Tags:                       valueOf(b.Tags),
	}
}

func (b *definitionRequest) update() state.DefinitionUpdate {
	return state.DefinitionUpdate{
		GroupName:                  b.GroupName,
		Alias:                      b.Alias,
		Command:                    b.Command,
		TaskType:                   b.TaskType,
		RequiresDocker:             b.RequiresDocker,
		TargetCluster:              b.TargetCluster,
		Image:                      b.Image,
		Memory:                     b.Memory,
		CPU:                        b.CPU,
		GPU:                        b.GPU,
		EphemeralStorage:           b.EphemeralStorage,
		Env:                        b.Env,
		AdaptiveResourceAllocation: b.AdaptiveResourceAllocation,
		Ports:                      b.Ports,
		Tags:                       b.Tags,
	}
}
