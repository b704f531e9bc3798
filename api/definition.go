package api

// EnvVar is one environment variable.
type EnvVar struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Definition is a job that can be run, as answered, and as sent to create or change one.
//
// In a change, an absent member or an empty text leaves the stored value as it
// is, and null clears a member that may be absent (rest-api.md, Definition).
type Definition struct {
	// DefinitionID is made by the server; it is ignored in a request.
	DefinitionID   string `json:"definition_id"`
	GroupName      string `json:"group_name,omitempty"`
	Alias          string `json:"alias"`
	Command        string `json:"command,omitempty"`
	TaskType       string `json:"task_type,omitempty"`
	RequiresDocker bool   `json:"requires_docker,omitempty"`
	// TargetCluster is the name of the cluster of runs that ask for none.
	TargetCluster    string   `json:"target_cluster,omitempty"`
	Image            string   `json:"image"`
	Memory           *int64   `json:"memory,omitempty"`            // MB
	CPU              *int64   `json:"cpu,omitempty"`               // millicores
	GPU              *int64   `json:"gpu,omitempty"`               // devices
	EphemeralStorage *int64   `json:"ephemeral_storage,omitempty"` // MB
	Env              []EnvVar `json:"env"`
	// AdaptiveResourceAllocation defaults to true; answers always have it.
	AdaptiveResourceAllocation *bool    `json:"adaptive_resource_allocation,omitempty"`
	Ports                      []int64  `json:"ports,omitempty"`
	Tags                       []string `json:"tags,omitempty"`
}
