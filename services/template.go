package services

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"github.com/stitchfix/flotilla-os/services/render"
	"github.com/stitchfix/flotilla-os/state"
)

// maxVersions bounds how many versions of a template its history covers.
const maxVersions = 10_000

// TemplateStore is the database as the TemplateService uses it.
type TemplateStore interface {
	ListTemplates(ctx context.Context, o state.ListOptions) (state.TemplateList, error)
	GetTemplate(ctx context.Context, id string) (state.Template, error)
	// GetTemplateVersion returns a version of a name, the latest if version is nil.
	GetTemplateVersion(ctx context.Context, name string, version *int64) (state.Template, error)
	// CreateTemplate stores the next version of a name. It returns false and the latest version if nothing differs.
	CreateTemplate(ctx context.Context, t state.Template) (state.Template, bool, error)
}

// TemplateConfig is what a TemplateService needs.
type TemplateConfig struct {
	Store TemplateStore
	// Execution creates the runs.
	Execution *ExecutionService
	Logger    *slog.Logger
	// DefaultSize is the size of a template without one.
	DefaultSize state.Size
	// OwnerIDVar is the variable by which a run learns its owner; reserved.
	OwnerIDVar string
}

// TemplateService stores and executes templates (rest-api.md, Template).
type TemplateService struct{ c TemplateConfig }

// NewTemplateService returns the service.
func NewTemplateService(c TemplateConfig) (*TemplateService, error) {
	if c.Store == nil || c.Execution == nil || c.Logger == nil {
		return nil, errors.New("services: templates need a store, an execution service and a logger")
	}
	return &TemplateService{c}, nil
}

// List returns a page of templates.
func (s *TemplateService) List(ctx context.Context, o state.ListOptions) (state.TemplateList, error) {
	return s.c.Store.ListTemplates(ctx, o)
}

// Get returns a template; state.MissingResource if there is none.
func (s *TemplateService) Get(ctx context.Context, id string) (state.Template, error) {
	return s.c.Store.GetTemplate(ctx, id)
}

// Create stores a template as the next version of its name. It returns false and the latest version if that is the same.
// The error is a state.MalformedInput if a field is missing, or the schema or the command template does not compile.
func (s *TemplateService) Create(ctx context.Context, t state.Template) (state.Template, bool, error) {
	if err := checkNewTemplate(t); err != nil {
		return state.Template{}, false, err
	}
	t.TemplateID, t.Version = state.NewTemplateID(), 0
	t.Env = withoutReserved(t.Env, s.c.OwnerIDVar)
	t.Ports, t.Tags = unique(t.Ports), unique(t.Tags)
	if t.Defaults == nil {
		t.Defaults = state.Object{}
	}
	if firstPositive(t.Memory) == nil {
		t.Memory = &s.c.DefaultSize.Memory
	}
	if firstPositive(t.CPU) == nil {
		t.CPU = &s.c.DefaultSize.CPU
	}
	if t.AdaptiveResourceAllocation == nil {
		t.AdaptiveResourceAllocation = new(true)
	}
	stored, created, err := s.c.Store.CreateTemplate(ctx, t)
	if err != nil {
		return state.Template{}, false, err
	}
	if created {
		audit(ctx, s.c.Logger, eventTemplateCreated, "", "template_id", stored.TemplateID,
			"template_name", stored.TemplateName, "version", stored.Version)
	}
	return stored, created, nil
}

// Execute queues a run of a template. Errors: state.MissingResource; state.MalformedInput, with every violation of the
// schema by the payload.
func (s *TemplateService) Execute(ctx context.Context, id string, req *state.TemplateExecutionRequest) (Created, error) {
	t, err := s.c.Store.GetTemplate(ctx, id)
	if err != nil {
		return Created{}, err
	}
	return s.execute(ctx, t, req)
}

// ExecuteVersion queues a run of a version of a template; a version that is
// not a number means the latest. Errors as of Execute.
func (s *TemplateService) ExecuteVersion(ctx context.Context, name, version string, req *state.TemplateExecutionRequest) (Created, error) {
	number, err := parseVersion(name, version)
	if err != nil {
		return Created{}, err
	}
	t, err := s.c.Store.GetTemplateVersion(ctx, name, number)
	if err != nil {
		return Created{}, err
	}
	return s.execute(ctx, t, req)
}

// parseVersion returns the number of a version, nil for the latest.
func parseVersion(name, version string) (*int64, error) {
	number, err := strconv.ParseInt(version, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrSyntax):
		return nil, nil
	case err != nil || number < 0 || number > maxInt32:
		return nil, state.Missingf("there is no version %s of template %q", version, name)
	}
	return &number, nil
}

func (s *TemplateService) execute(ctx context.Context, t state.Template, req *state.TemplateExecutionRequest) (Created, error) {
	var f faults
	f.object("template_payload", req.TemplatePayload)
	if err := f.err(); err != nil {
		return Created{}, err
	}
	payload := render.Merge(t.Defaults, req.TemplatePayload)
	if err := render.CheckPayload(t.Schema, payload); err != nil {
		return Created{}, err
	}
	common := state.ExecutionRequestCommon{}
	if req.ExecutionRequestCommon != nil {
		common = *req.ExecutionRequestCommon
	}
	common.Engine = new(state.EKSEngine)
	merged := &state.TemplateExecutionRequest{ExecutionRequestCommon: &common, TemplatePayload: payload, DryRun: req.DryRun}
	executable := filledTemplate{Template: t, payload: payload, clock: s.c.Execution.c.Clock}
	return s.c.Execution.create(ctx, executable, merged, "", req.DryRun)
}

// filledTemplate is a template with the payload of one run.
type filledTemplate struct {
	state.Template
	payload state.Object
	clock   func() time.Time
}

// GetExecutableCommand renders the template with the payload.
func (t filledTemplate) GetExecutableCommand(state.ExecutionRequest) (string, error) {
	command, err := render.Command(t.CommandTemplate, t.payload, t.clock)
	if err != nil {
		return "", state.Malformedf("the template cannot be rendered: %s", state.Shorten(err.Error(), maxSentence))
	}
	return command, nil
}

// History returns a page of the runs of a template; state.MissingResource if there is no such template.
func (s *TemplateService) History(ctx context.Context, id string, o state.ListOptions) (state.RunList, error) {
	if _, err := s.c.Store.GetTemplate(ctx, id); err != nil {
		return state.RunList{}, err
	}
	return s.c.Execution.List(ctx, filtered(o, filterExecutable, id))
}

// HistoryByName returns a page of the runs of all versions of a template, and the ids of these versions;
// state.MissingResource if no template has that name.
func (s *TemplateService) HistoryByName(ctx context.Context, name string, o state.ListOptions) (state.RunList, []string, error) {
	versions, err := s.c.Store.ListTemplates(ctx, state.ListOptions{
		Limit: maxVersions, Filters: map[string][]string{"template_name": {name}},
	})
	if err != nil {
		return state.RunList{}, nil, err
	}
	var ids []string
	for _, t := range versions.Templates {
		if t.TemplateName == name {
			ids = append(ids, t.TemplateID)
		}
	}
	if len(ids) == 0 {
		return state.RunList{}, nil, state.Missingf("there is no template named %q", name)
	}
	list, err := s.c.Execution.List(ctx, filtered(o, filterExecutable, ids...))
	return list, ids, err
}

func checkNewTemplate(t state.Template) error {
	var f faults
	missing := missingOf(named{"template_name", t.TemplateName == ""}, named{"schema", t.Schema == nil},
		named{"command_template", t.CommandTemplate == ""}, named{"image", t.Image == ""})
	if missing != "" {
		f.addf("a template needs %s", missing)
	}
	f.text("template_name", t.TemplateName, maxName)
	f.text("image", t.Image, maxImage)
	f.text("avatar_uri", t.AvatarURI, maxImage)
	f.text("command_template", t.CommandTemplate, render.MaxTemplate)
	f.sizes(t.Memory, t.CPU, t.GPU, t.EphemeralStorage)
	f.env(t.Env)
	f.command(nil, t.Env)
	f.ports(t.Ports)
	f.words("tags", t.Tags)
	f.object("schema", t.Schema)
	f.object("defaults", t.Defaults)
	if err := f.err(); err != nil {
		return err
	}
	if err := render.CheckSchema(t.Schema); err != nil {
		f.addf("schema does not compile: %s", err)
	}
	if err := render.CheckTemplate(t.CommandTemplate); err != nil {
		f.addf("command_template does not compile: %s", err)
	}
	return f.err()
}
