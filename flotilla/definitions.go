package flotilla

import (
	"net/http"

	"github.com/stitchfix/flotilla-os/state"
)

func (e *endpoints) listDefinitions(w http.ResponseWriter, r *http.Request) error {
	opts, err := listOptions(r, state.DefaultDefinitionSort)
	if err != nil {
		return err
	}
	list, err := e.definitions.List(r.Context(), opts)
	if err != nil {
		return err
	}
	return writeJSON(w, listAnswer{itemsName: "definitions", items: present(list.Definitions), total: list.Total, opts: opts}.members())
}

func (e *endpoints) getDefinition(w http.ResponseWriter, r *http.Request) error {
	definition, err := e.definitions.Get(r.Context(), pathParam(r, "definition_id"))
	if err != nil {
		return err
	}
	return writeJSON(w, definition)
}

func (e *endpoints) getDefinitionByAlias(w http.ResponseWriter, r *http.Request) error {
	definition, err := e.definitions.GetByAlias(r.Context(), pathParam(r, "alias"))
	if err != nil {
		return err
	}
	return writeJSON(w, definition)
}

func (e *endpoints) createDefinition(w http.ResponseWriter, r *http.Request) error {
	var body definitionRequest
	if err := decodeBody(r, &body); err != nil {
		return err
	}
	definition, err := e.definitions.Create(r.Context(), body.definition())
	if err != nil {
		return err
	}
	return writeJSON(w, definition)
}

func (e *endpoints) updateDefinition(w http.ResponseWriter, r *http.Request) error {
	var body definitionRequest
	if err := decodeBody(r, &body); err != nil {
		return err
	}
	definition, err := e.definitions.Update(r.Context(), pathParam(r, "definition_id"), body.update())
	if err != nil {
		return err
	}
	return writeJSON(w, definition)
}

func (e *endpoints) deleteDefinition(w http.ResponseWriter, r *http.Request) error {
	if err := e.definitions.Delete(r.Context(), pathParam(r, "definition_id")); err != nil {
		return err
	}
	return writeJSON(w, deletedAnswer{true})
}
