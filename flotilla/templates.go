package flotilla

import (
	"net/http"

	"github.com/stitchfix/flotilla-os/state"
)

func (e *endpoints) listTemplates(w http.ResponseWriter, r *http.Request) error {
	opts, err := listOptions(r, state.DefaultTemplateSort)
	if err != nil {
		return err
	}
	if opts.LatestOnly, err = boolOf(r.URL.Query(), paramLatestOnly, true); err != nil {
		return err
	}
	delete(opts.Filters, paramLatestOnly)
	list, err := e.templates.List(r.Context(), opts)
	if err != nil {
		return err
	}
	return writeJSON(w, listAnswer{itemsName: "templates", items: present(list.Templates), total: list.Total, opts: opts}.members())
}

func (e *endpoints) getTemplate(w http.ResponseWriter, r *http.Request) error {
	template, err := e.templates.Get(r.Context(), pathParam(r, "template_id"))
	if err != nil {
		return err
	}
	return writeJSON(w, template)
}

// templateRequest is the body that creates a template. Memory and storage in
// MB, cpu in millicores.
type templateRequest struct {
	TemplateName               string        `json:"template_name"`
	Schema                     state.Object  `json:"schema"`
	CommandTemplate            string        `json:"command_template"`
	Defaults                   state.Object  `json:"defaults"`
	AvatarURI                  string        `json:"avatar_uri"`
	Image                      string        `json:"image"`
	Memory                     *int64        `json:"memory"`
	CPU                        *int64        `json:"cpu"`
	GPU                        *int64        `json:"gpu"`
	EphemeralStorage           *int64        `json:"ephemeral_storage"`
	Env                        state.EnvList `json:"env"`
	AdaptiveResourceAllocation *bool         `json:"adaptive_resource_allocation"`
	Ports                      []int64       `json:"ports"`
	Tags                       []string      `json:"tags"`
}

func (b *templateRequest) template() state.Template {
	return state.Template{
		TemplateName: b.TemplateName, Schema: b.Schema, CommandTemplate: b.CommandTemplate,
		Defaults: b.Defaults, AvatarURI: b.AvatarURI, Image: b.Image,
		Memory: b.Memory, CPU: b.CPU, GPU: b.GPU, EphemeralStorage: b.EphemeralStorage,
		Env: b.Env, AdaptiveResourceAllocation: b.AdaptiveResourceAllocation, Ports: b.Ports, Tags: b.Tags,
	}
}

type templateCreatedAnswer struct {
	DidCreate bool           `json:"did_create"`
	Template  state.Template `json:"template"`
}

func (e *endpoints) createTemplate(w http.ResponseWriter, r *http.Request) error {
	var body templateRequest
	if err := decodeBody(r, &body); err != nil {
		return err
	}
	template, created, err := e.templates.Create(r.Context(), body.template())
	if err != nil {
		return err
	}
	return writeJSON(w, templateCreatedAnswer{created, template})
}
