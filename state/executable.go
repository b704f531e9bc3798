package state

import "context"

// ExecutableResources describes the container of the runs of a definition or template. Memory and storage are in MB,
// cpu in millicores.
type ExecutableResources struct {
	Image                      string
	Memory                     *int64
	CPU                        *int64
	GPU                        *int64
	EphemeralStorage           *int64
	Env                        EnvList
	Ports                      []int64
	Tags                       []string
	Privileged                 *bool
	RequiresDocker             bool
	AdaptiveResourceAllocation *bool
}

// Executable is a definition or a template: what runs are made from.
type Executable interface {
	GetExecutableID() *string
	GetExecutableType() ExecutableType
	GetExecutableResources() ExecutableResources
}

// ExecutionRequestCommon holds what a client may ask of any run. nil means not given. Memory and storage are in MB, cpu
// in millicores, deadlines in seconds.
type ExecutionRequestCommon struct {
	ClusterName string
	// ClusterRequired refuses the request if ClusterName is not known. Without it, ClusterName is ignored unless it
	// names an active cluster.
	ClusterRequired       bool
	OwnerID               string
	Env                   EnvList
	Command               *string
	Memory                *int64
	CPU                   *int64
	GPU                   *int64
	EphemeralStorage      *int64
	Engine                *string
	NodeLifecycle         *string
	ActiveDeadlineSeconds *int64
	SparkExtension        *SparkExtension
	Description           *string
	// CommandHash is accepted and ignored: the service computes it from the final command (ara.md section 1).
	CommandHash    *string
	IdempotenceKey *string
	Arch           *string
	Labels         Labels
	ServiceAccount *string
	Tier           *string
}

// GetExecutionRequestCommon implements a method of ExecutionRequest for all requests.
func (r *ExecutionRequestCommon) GetExecutionRequestCommon() *ExecutionRequestCommon { return r }

// ExecutionRequest is a request to run an executable.
type ExecutionRequest interface {
	GetExecutionRequestCommon() *ExecutionRequestCommon
	// GetExecutionRequestCustom returns what only this kind of executable takes, or nil.
	GetExecutionRequestCustom() Object
}

// DefinitionExecutionRequest is a request for a run of a definition.
type DefinitionExecutionRequest struct {
	*ExecutionRequestCommon
}

// GetExecutionRequestCustom implements ExecutionRequest.
func (r *DefinitionExecutionRequest) GetExecutionRequestCustom() Object { return nil }

// TemplatePayloadKey is the member of execution_request_custom that holds the payload of a template's run.
const TemplatePayloadKey = "template_payload"

// TemplateExecutionRequest is a request for a run of a template.
type TemplateExecutionRequest struct {
	*ExecutionRequestCommon
	TemplatePayload Object
	// DryRun builds the run and returns it, and stores nothing.
	DryRun bool
}

// GetExecutionRequestCustom implements ExecutionRequest.
func (r *TemplateExecutionRequest) GetExecutionRequestCustom() Object {
	return Object{TemplatePayloadKey: map[string]any(r.TemplatePayload)}
}

// GetExecutable returns a definition or template, in one query.
func (m *Manager) GetExecutable(ctx context.Context, typ ExecutableType, id string) (Executable, error) {
	switch typ {
	case ExecutableTypeDefinition:
		return m.GetDefinition(ctx, id)
	case ExecutableTypeTemplate:
		return m.GetTemplate(ctx, id)
	}
	return nil, Malformedf("there is no executable type %q", typ)
}
