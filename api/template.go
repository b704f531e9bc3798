package api

// Template is a command with placeholders and a JSON Schema of the payload
// that fills them, as answered, and as sent to create one.
type Template struct {
	// TemplateID and Version are made by the server; they are ignored in a request.
	TemplateID   string `json:"template_id"`
	TemplateName string `json:"template_name"`
	Version      int64  `json:"version"`
	// Schema is a JSON Schema of the payload.
	Schema map[string]any `json:"schema"`
	// CommandTemplate is a Go text/template with sprig functions.
	CommandTemplate string `json:"command_template"`
	// Defaults lie under the payload of every run.
	Defaults                   map[string]any `json:"defaults"`
	AvatarURI                  string         `json:"avatar_uri"`
	Image                      string         `json:"image"`
	Memory                     *int64         `json:"memory,omitempty"`            // MB
	CPU                        *int64         `json:"cpu,omitempty"`               // millicores
	GPU                        *int64         `json:"gpu,omitempty"`               // devices
	EphemeralStorage           *int64         `json:"ephemeral_storage,omitempty"` // MB
	Env                        []EnvVar       `json:"env"`
	AdaptiveResourceAllocation *bool          `json:"adaptive_resource_allocation,omitempty"`
	Ports                      []int64        `json:"ports,omitempty"`
	Tags                       []string       `json:"tags,omitempty"`
}

// TemplateCreated is the answer of POST /api/v7/template.
type TemplateCreated struct {
	// DidCreate is false if the latest version already equals the request.
	DidCreate bool     `json:"did_create"`
	Template  Template `json:"template"`
}
