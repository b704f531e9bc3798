package flotilla

import (
	"context"
	"io"

	"github.com/stitchfix/flotilla-os/services"
	"github.com/stitchfix/flotilla-os/state"
)

// Definitions keeps definitions, and the groups and tags that they name.
type Definitions interface {
	List(ctx context.Context, opts state.ListOptions) (state.DefinitionList, error)
	Get(ctx context.Context, id string) (state.Definition, error)
	GetByAlias(ctx context.Context, alias string) (state.Definition, error)
	Create(ctx context.Context, d state.Definition) (state.Definition, error)
	Update(ctx context.Context, id string, u state.DefinitionUpdate) (state.Definition, error)
	Delete(ctx context.Context, id string) error
	Groups(ctx context.Context, limit, offset int, name string) (state.NameList, error)
	Tags(ctx context.Context, limit, offset int, name string) (state.NameList, error)
}

// Executions makes, shows and stops runs.
type Executions interface {
	CreateFromDefinition(ctx context.Context, ref services.DefinitionRef, req *state.DefinitionExecutionRequest) (services.Created, error)
	List(ctx context.Context, opts state.ListOptions) (state.RunList, error)
	ListForExecutable(ctx context.Context, id string, opts state.ListOptions) (state.RunList, error)
	Get(ctx context.Context, runID string) (state.Run, error)
	Status(ctx context.Context, runID string) (state.Run, error)
	Stop(ctx context.Context, runID, by string) error
	Report(ctx context.Context, runID string, report state.SelfReport) error
	Events(ctx context.Context, runID string) (state.PodEvents, error)
	Manifest(ctx context.Context, runID string) ([]byte, error)
}

// Templates stores and executes templates.
type Templates interface {
	List(ctx context.Context, opts state.ListOptions) (state.TemplateList, error)
	Get(ctx context.Context, id string) (state.Template, error)
	Create(ctx context.Context, t state.Template) (state.Template, bool, error)
	Execute(ctx context.Context, id string, req *state.TemplateExecutionRequest) (services.Created, error)
	ExecuteVersion(ctx context.Context, name, version string, req *state.TemplateExecutionRequest) (services.Created, error)
	History(ctx context.Context, id string, opts state.ListOptions) (state.RunList, error)
	// HistoryByName also returns the ids of the template's versions.
	HistoryByName(ctx context.Context, name string, opts state.ListOptions) (state.RunList, []string, error)
}

// Logs returns the logs of runs.
type Logs interface {
	Page(ctx context.Context, runID string, q services.LogRequest) (services.LogPage, error)
	Stream(ctx context.Context, runID string, w io.Writer, q services.LogRequest) error
	// Resumes reports whether q continues behind a position that was made for the log of this run.
	Resumes(runID string, q services.LogRequest) bool
	// Follow returns the run as it ended.
	Follow(ctx context.Context, runID string, q services.LogRequest, emit func(line []byte, lastSeen string) error) (state.Run, error)
}

// Clusters stores the clusters.
type Clusters interface {
	List(ctx context.Context) ([]state.Cluster, error)
	Get(ctx context.Context, id string) (state.Cluster, error)
	Create(ctx context.Context, c state.Cluster) error
	Update(ctx context.Context, id string, u state.ClusterUpdate) error
	Delete(ctx context.Context, id string) error
}

// Workers stores the counts of the workers.
type Workers interface {
	List(ctx context.Context) ([]state.Worker, error)
	Get(ctx context.Context, t state.WorkerType) (state.Worker, error)
	Update(ctx context.Context, t state.WorkerType, count int64) (state.Worker, error)
	UpdateAll(ctx context.Context, workers []state.Worker) ([]state.Worker, error)
}
