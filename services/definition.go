package services

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"

	"github.com/stitchfix/flotilla-os/state"
)

// DefinitionStore is the database as the DefinitionService uses it.
type DefinitionStore interface {
	ListDefinitions(ctx context.Context, o state.ListOptions) (state.DefinitionList, error)
	GetDefinition(ctx context.Context, id string) (state.Definition, error)
	GetDefinitionByAlias(ctx context.Context, alias string) (state.Definition, error)
	CreateDefinition(ctx context.Context, d state.Definition) error
	UpdateDefinition(ctx context.Context, id string, u state.DefinitionUpdate) (state.Definition, error)
	DeleteDefinition(ctx context.Context, id string) error
	ListGroups(ctx context.Context, limit, offset int, name string) (state.NameList, error)
	ListTags(ctx context.Context, limit, offset int, name string) (state.NameList, error)
}

// DefinitionConfig is what a DefinitionService needs.
type DefinitionConfig struct {
	Store  DefinitionStore
	Logger *slog.Logger
	// OwnerIDVar is the variable by which a run learns its owner; reserved.
	OwnerIDVar string
}

// DefinitionService stores definitions (rest-api.md, Definition).
type DefinitionService struct{ c DefinitionConfig }

// NewDefinitionService returns the service.
func NewDefinitionService(c DefinitionConfig) (*DefinitionService, error) {
	if c.Store == nil || c.Logger == nil {
		return nil, errors.New("services: definitions need a store and a logger")
	}
	return &DefinitionService{c}, nil
}

// List returns a page of definitions.
func (s *DefinitionService) List(ctx context.Context, o state.ListOptions) (state.DefinitionList, error) {
	return s.c.Store.ListDefinitions(ctx, o)
}

// Get returns a definition; state.MissingResource if there is none.
func (s *DefinitionService) Get(ctx context.Context, id string) (state.Definition, error) {
	return s.c.Store.GetDefinition(ctx, id)
}

// GetByAlias returns the definition of an alias; state.MissingResource if there is none.
func (s *DefinitionService) GetByAlias(ctx context.Context, alias string) (state.Definition, error) {
	return s.c.Store.GetDefinitionByAlias(ctx, alias)
}

// Groups returns the group names that contain name.
func (s *DefinitionService) Groups(ctx context.Context, limit, offset int, name string) (state.NameList, error) {
	return s.c.Store.ListGroups(ctx, limit, offset, name)
}

// Tags returns the tags that contain name.
func (s *DefinitionService) Tags(ctx context.Context, limit, offset int, name string) (state.NameList, error) {
	return s.c.Store.ListTags(ctx, limit, offset, name)
}

// Create stores a new definition under a new id. Errors: state.MalformedInput with everything that is missing or wrong,
// state.ConflictingResource if the alias is taken.
func (s *DefinitionService) Create(ctx context.Context, d state.Definition) (state.Definition, error) {
	var f faults
	if missing := missingOf(named{"image", d.Image == ""}, named{"alias", d.Alias == ""}); missing != "" {
		f.addf("a definition needs %s", missing)
	}
	f.definition(d)
	if err := f.err(); err != nil {
		return state.Definition{}, err
	}
	d.DefinitionID = state.NewDefinitionID(d.GroupName)
	d.Env = withoutReserved(d.Env, s.c.OwnerIDVar)
	d.Ports, d.Tags = unique(d.Ports), unique(d.Tags)
	d.Command = present(d.Command)
	d.TargetCluster = present(d.TargetCluster)
	if err := s.c.Store.CreateDefinition(ctx, d); err != nil {
		return state.Definition{}, err
	}
	audit(ctx, s.c.Logger, eventDefinitionCreated, "", "definition_id", d.DefinitionID, "alias", d.Alias)
	return s.c.Store.GetDefinition(ctx, d.DefinitionID)
}

// Update changes the fields that u names. Errors as of Create, and state.MissingResource.
func (s *DefinitionService) Update(ctx context.Context, id string, u state.DefinitionUpdate) (state.Definition, error) {
	var f faults
	for _, needed := range []struct{ field, value string }{{"image", u.Image}, {"alias", u.Alias}} {
		if slices.Contains(u.Set, needed.field) && strings.TrimSpace(needed.value) == "" {
			f.addf("%s must not be empty", needed.field)
		}
	}
	f.definition(u.Definition)
	if err := f.err(); err != nil {
		return state.Definition{}, err
	}
	u.Env = withoutReserved(u.Env, s.c.OwnerIDVar)
	u.Ports, u.Tags = unique(u.Ports), unique(u.Tags)
	d, err := s.c.Store.UpdateDefinition(ctx, id, u)
	if err != nil {
		return state.Definition{}, err
	}
	audit(ctx, s.c.Logger, eventDefinitionUpdated, "", "definition_id", id, "alias", d.Alias)
	return d, nil
}

// Delete removes a definition and, in time, its runs; state.ConflictingResource if one of them is not STOPPED.
func (s *DefinitionService) Delete(ctx context.Context, id string) error {
	if err := s.c.Store.DeleteDefinition(ctx, id); err != nil {
		return err
	}
	audit(ctx, s.c.Logger, eventDefinitionDeleted, "", "definition_id", id)
	return nil
}

// definition checks the fields of a definition that are set.
func (f *faults) definition(d state.Definition) {
	f.text("image", d.Image, maxImage)
	f.text("alias", d.Alias, maxName)
	f.text("group_name", d.GroupName, maxName)
	f.text("task_type", d.TaskType, maxName)
	f.optionalName("target_cluster", d.TargetCluster)
	f.sizes(d.Memory, d.CPU, d.GPU, d.EphemeralStorage)
	f.env(d.Env)
	f.command(d.Command, d.Env)
	f.ports(d.Ports)
	f.words("tags", d.Tags)
}

// named is a required field of a request.
type named struct {
	field   string
	missing bool
}

// missingOf returns the missing fields in words, empty if there are none.
func missingOf(fields ...named) string {
	var names []string
	for _, f := range fields {
		if f.missing {
			names = append(names, f.field)
		}
	}
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

// present returns the text, nil if it is empty.
func present(text *string) *string {
	if text == nil || *text == "" {
		return nil
	}
	return text
}
