package api

// LaunchV1 is the body of PUT /api/v1/task/{definition_id}/execute. Other members are ignored, even invalid ones.
type LaunchV1 struct {
	Cluster string   `json:"cluster"`
	Env     []EnvVar `json:"env"`
	Tier    *string  `json:"tier"`
}

// LaunchV2 is the body of PUT /api/v2/task/{definition_id}/execute. Other members are ignored, even invalid ones.
type LaunchV2 struct {
	// RunTags must both be present; OwnerEmail becomes the owner.
	RunTags struct {
		OwnerEmail string `json:"owner_email"`
		TeamName   string `json:"team_name"`
	} `json:"run_tags"`
	LaunchBasics
}

// LaunchBasics are the members that every launch request from v2 on takes.
type LaunchBasics struct {
	Env []EnvVar `json:"env"`
	// Engine is "eks", "eks-spark" or "ecs", which means one of the two.
	Engine         *string           `json:"engine"`
	SparkExtension SparkExtension    `json:"spark_extension"`
	Description    *string           `json:"description"`
	IdempotenceKey *string           `json:"idempotence_key"`
	Arch           *string           `json:"arch"`
	Labels         map[string]string `json:"labels"`
	ServiceAccount *string           `json:"service_account"`
	Tier           *string           `json:"tier"`
}

// LaunchFields are the members that launch and template requests share.
type LaunchFields struct {
	LaunchBasics
	// Cluster is used if it names a known and active cluster.
	Cluster          string  `json:"cluster"`
	Command          *string `json:"command"`
	Memory           *int64  `json:"memory"`            // MB
	CPU              *int64  `json:"cpu"`               // millicores
	GPU              *int64  `json:"gpu"`               // devices
	EphemeralStorage *int64  `json:"ephemeral_storage"` // MB
	// NodeLifecycle is "spot" (the default) or "ondemand".
	NodeLifecycle         string `json:"node_lifecycle"`
	ActiveDeadlineSeconds *int64 `json:"active_deadline_seconds"`
	// CommandHash is accepted and ignored: the server computes it.
	CommandHash *string `json:"command_hash"`
}

// Launch is the body of v4 and v6 execute, and of execute by alias.
type Launch struct {
	LaunchFields
	// RunTags must have OwnerID.
	RunTags struct {
		OwnerID    string `json:"owner_id"`
		OwnerEmail string `json:"owner_email"`
		TeamName   string `json:"team_name"`
	} `json:"run_tags"`
}

// TemplateLaunch is the body of PUT /api/v7/template/…/execute.
type TemplateLaunch struct {
	LaunchFields
	// ClusterName must be a known cluster; it goes before Cluster.
	ClusterName string `json:"cluster_name"`
	OwnerID     string `json:"owner_id"`
	// TemplatePayload fills the template, over its defaults.
	TemplatePayload map[string]any `json:"template_payload"`
	// DryRun returns the run without storing it.
	DryRun bool `json:"dry_run"`
}
