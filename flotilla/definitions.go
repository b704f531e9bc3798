package flotilla

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"

	"github.com/stitchfix/flotilla-os/api"
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
	return writeList(w, "definitions", mapped(list.Definitions, definitionAnswer), api.Page{Total: list.Total}, opts)
}

func (e *endpoints) getDefinition(w http.ResponseWriter, r *http.Request) error {
	definition, err := e.definitions.Get(r.Context(), pathParam(r, "definition_id"))
	return writeDefinition(w, definition, err)
}

func (e *endpoints) getDefinitionByAlias(w http.ResponseWriter, r *http.Request) error {
	definition, err := e.definitions.GetByAlias(r.Context(), pathParam(r, "alias"))
	return writeDefinition(w, definition, err)
}

func (e *endpoints) createDefinition(w http.ResponseWriter, r *http.Request) error {
	var body api.Definition
	if _, err := readJSON(w, r, &body); err != nil {
		return err
	}
	definition, err := e.definitions.Create(r.Context(), definitionOf(body))
	return writeDefinition(w, definition, err)
}

func (e *endpoints) updateDefinition(w http.ResponseWriter, r *http.Request) error {
	var body api.Definition
	sent, err := readJSON(w, r, &body)
	if err != nil {
		return err
	}
	// An empty text means unchanged, and what must be there cannot be cleared.
	maps.DeleteFunc(sent, func(name string, value any) bool {
		return value == "" || value == nil && (name == "alias" || name == "image")
	})
	definition, err := e.definitions.Update(r.Context(), pathParam(r, "definition_id"),
		state.DefinitionUpdate{Definition: definitionOf(body), Set: slices.Collect(maps.Keys(sent))})
	return writeDefinition(w, definition, err)
}

// deleteDefinition also reports success if the definition does not exist, as the program before did.
func (e *endpoints) deleteDefinition(w http.ResponseWriter, r *http.Request) error {
	err := e.definitions.Delete(r.Context(), pathParam(r, "definition_id"))
	if missing := (state.MissingResource{}); err != nil && !errors.As(err, &missing) {
		return err
	}
	return writeJSON(w, api.Deleted{Deleted: true})
}

func writeDefinition(w http.ResponseWriter, d state.Definition, err error) error {
	if err != nil {
		return err
	}
	return writeJSON(w, definitionAnswer(&d))
}

func (e *endpoints) listGroups(w http.ResponseWriter, r *http.Request) error {
	list, limit, offset, err := listNames(r, e.definitions.Groups)
	if err != nil {
		return err
	}
	return writeJSON(w, api.GroupList{Total: list.Total, Groups: present(list.Names), Limit: limit, Offset: offset})
}

func (e *endpoints) listTags(w http.ResponseWriter, r *http.Request) error {
	list, limit, offset, err := listNames(r, e.definitions.Tags)
	if err != nil {
		return err
	}
	return writeJSON(w, api.TagList{Total: list.Total, Tags: present(list.Names), Limit: limit, Offset: offset})
}

func listNames(
	r *http.Request, find func(ctx context.Context, limit, offset int, name string) (state.NameList, error),
) (list state.NameList, limit, offset int, err error) {
	query := r.URL.Query()
	if limit, offset, err = pageOf(query); err != nil {
		return list, 0, 0, err
	}
	list, err = find(r.Context(), limit, offset, query.Get("name"))
	return list, limit, offset, err
}
