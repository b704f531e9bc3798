package flotilla

import (
	"github.com/stitchfix/flotilla-os/state"
)

// ownerV1 is the owner of every run that was created through v1.
const ownerV1 = "v1-unknown"

// launchV1 is what PUT /api/v1/task/{definition_id}/execute takes of its body.
type launchV1 struct {
	Cluster string        `json:"cluster"`
	Env     state.EnvList `json:"env"`
	Tier    *string       `json:"tier"`
}

func (b *launchV1) request() *state.DefinitionExecutionRequest {
	return &state.DefinitionExecutionRequest{ExecutionRequestCommon: &state.ExecutionRequestCommon{
		ClusterName: b.Cluster,
		OwnerID:     ownerV1,
		Env:         b.Env,
		Engine:      new(state.EKSEngine),
		Tier:        b.Tier,
	}}
}

// launchV2 is what PUT /api/v2/task/{definition_id}/execute takes of its body.
type launchV2 struct {
	RunTags struct {
		OwnerEmail string `json:"owner_email"`
		TeamName   string `json:"team_name"`
	} `json:"run_tags"`
	Env            state.EnvList         `json:"env"`
	Engine         *string               `json:"engine"`
	SparkExtension *state.SparkExtension `json:"spark_extension"`
	Description    *string               `json:"description"`
	IdempotenceKey *string               `json:"idempotence_key"`
	Arch           *string               `json:"arch"`
	Labels         state.Labels          `json:"labels"`
	ServiceAccount *string               `json:"service_account"`
	Tier           *string               `json:"tier"`
}

func (b *launchV2) request() (*state.DefinitionExecutionRequest, error) {
	if b.RunTags.OwnerEmail == "" || b.RunTags.TeamName == "" {
		return nil, state.Malformedf("the fields run_tags.owner_email and run_tags.team_name are both needed")
	}
	return &state.DefinitionExecutionRequest{ExecutionRequestCommon: &state.ExecutionRequestCommon{
		OwnerID:        b.RunTags.OwnerEmail,
		Env:            b.Env,
		Engine:         b.Engine,
		SparkExtension: b.SparkExtension,
		Description:    b.Description,
		IdempotenceKey: b.IdempotenceKey,
		Arch:           b.Arch,
		Labels:         b.Labels,
		ServiceAccount: b.ServiceAccount,
		Tier:           b.Tier,
	}}, nil
}

// launchFields are the members that launch and template requests share.
// Memory and storage in MB, cpu in millicores, the deadline in seconds.
type launchFields struct {
	Cluster               string                `json:"cluster"`
	Env                   state.EnvList         `json:"env"`
	Command               *string               `json:"command"`
	Memory                *int64                `json:"memory"`
	CPU                   *int64                `json:"cpu"`
	GPU                   *int64                `json:"gpu"`
	EphemeralStorage      *int64                `json:"ephemeral_storage"`
	Engine                *string               `json:"engine"`
	NodeLifecycle         *string               `json:"node_lifecycle"`
	ActiveDeadlineSeconds *int64                `json:"active_deadline_seconds"`
	SparkExtension        *state.SparkExtension `json:"spark_extension"`
	Description           *string               `json:"description"`
	CommandHash           *string               `json:"command_hash"`
	IdempotenceKey        *string               `json:"idempotence_key"`
	Arch                  *string               `json:"arch"`
	Labels                state.Labels          `json:"labels"`
	ServiceAccount        *string               `json:"service_account"`
	Tier                  *string               `json:"tier"`
}

func (b *launchFields) common(owner string) *state.ExecutionRequestCommon {
	return &state.ExecutionRequestCommon{
		ClusterName:           b.Cluster,
		OwnerID:               owner,
		Env:                   b.Env,
		Command:               b.Command,
		Memory:                b.Memory,
		CPU:                   b.CPU,
		GPU:                   b.GPU,
		EphemeralStorage:      b.EphemeralStorage,
		Engine:                b.Engine,
		NodeLifecycle:         given(b.NodeLifecycle),
		ActiveDeadlineSeconds: b.ActiveDeadlineSeconds,
		SparkExtension:        b.SparkExtension,
		Description:           b.Description,
		CommandHash:           b.CommandHash,
		IdempotenceKey:        b.IdempotenceKey,
		Arch:                  b.Arch,
		Labels:                b.Labels,
		ServiceAccount:        b.ServiceAccount,
		Tier:                  b.Tier,
	}
}

// launchRequest is the body of v4 and v6 execute, and of execute by alias.
type launchRequest struct {
	launchFields
	RunTags struct {
		OwnerID    string `json:"owner_id"`
		OwnerEmail string `json:"owner_email"`
		TeamName   string `json:"team_name"`
	} `json:"run_tags"`
}

func (b *launchRequest) request() (*state.DefinitionExecutionRequest, error) {
	if b.RunTags.OwnerID == "" {
		return nil, state.Malformedf("the field run_tags.owner_id is missing")
	}
	return &state.DefinitionExecutionRequest{ExecutionRequestCommon: b.common(b.RunTags.OwnerID)}, nil
}

// templateLaunchRequest is the body of PUT /api/v7/template/…/execute.
type templateLaunchRequest struct {
	launchFields
	ClusterName     string       `json:"cluster_name"`
	OwnerID         string       `json:"owner_id"`
	TemplatePayload state.Object `json:"template_payload"`
	DryRun          bool         `json:"dry_run"`
}

func (b *templateLaunchRequest) request() (*state.TemplateExecutionRequest, error) {
	if b.OwnerID == "" {
		return nil, state.Malformedf("the field owner_id is missing")
	}
	common := b.common(b.OwnerID)
	if b.ClusterName != "" {
		common.ClusterName, common.ClusterRequired = b.ClusterName, true
	}
	return &state.TemplateExecutionRequest{
		ExecutionRequestCommon: common,
		TemplatePayload:        b.TemplatePayload,
		DryRun:                 b.DryRun,
	}, nil
}
