package flotilla

import (
	"net/http"

	"github.com/stitchfix/flotilla-os/api"
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
	return writeList(w, "templates", mapped(list.Templates, templateAnswer), api.Page{Total: list.Total}, opts)
}

func (e *endpoints) getTemplate(w http.ResponseWriter, r *http.Request) error {
	template, err := e.templates.Get(r.Context(), pathParam(r, "template_id"))
	if err != nil {
		return err
	}
	return writeJSON(w, templateAnswer(&template))
}

func (e *endpoints) createTemplate(w http.ResponseWriter, r *http.Request) error {
	var body api.Template
	if _, err := readJSON(w, r, &body); err != nil {
		return err
	}
	template, created, err := e.templates.Create(r.Context(), state.Template{
		TemplateName: body.TemplateName, Schema: body.Schema, CommandTemplate: body.CommandTemplate,
		Defaults: body.Defaults, AvatarURI: body.AvatarURI, Image: body.Image,
		Memory: body.Memory, CPU: body.CPU, GPU: body.GPU, EphemeralStorage: body.EphemeralStorage, Env: envOf(body.Env),
		AdaptiveResourceAllocation: body.AdaptiveResourceAllocation, Ports: body.Ports, Tags: tagsOf(body.Tags),
	})
	if err != nil {
		return err
	}
	return writeJSON(w, api.TemplateCreated{DidCreate: created, Template: templateAnswer(&template)})
}
