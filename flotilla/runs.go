package flotilla

import (
	"net/http"

	"github.com/stitchfix/flotilla-os/services"
	"github.com/stitchfix/flotilla-os/state"
)

func (e *endpoints) listRuns(w http.ResponseWriter, r *http.Request) error {
	opts, err := listOptions(r, state.DefaultRunSort)
	if err != nil {
		return err
	}
	list, err := e.executions.List(r.Context(), opts)
	return answerRuns(w, list, opts, err)
}

func (e *endpoints) listRunsOfDefinition(w http.ResponseWriter, r *http.Request) error {
	opts, err := listOptions(r, state.DefaultRunSort)
	if err != nil {
		return err
	}
	id := pathParam(r, "definition_id")
	opts.Filters["definition_id"] = []string{id}
	list, err := e.executions.ListForExecutable(r.Context(), id, opts)
	return answerRuns(w, list, opts, err)
}

func (e *endpoints) listRunsOfTemplate(w http.ResponseWriter, r *http.Request) error {
	opts, err := listOptions(r, state.DefaultRunSort)
	if err != nil {
		return err
	}
	id := pathParam(r, "template_id")
	opts.Filters["executable_id"] = []string{id}
	list, err := e.templates.History(r.Context(), id, opts)
	return answerRuns(w, list, opts, err)
}

func (e *endpoints) listRunsOfTemplateName(w http.ResponseWriter, r *http.Request) error {
	opts, err := listOptions(r, state.DefaultRunSort)
	if err != nil {
		return err
	}
	name := pathParam(r, "template_name")
	list, versions, err := e.templates.HistoryByName(r.Context(), name, opts)
	opts.Filters["template_name"], opts.Filters["executable_id"] = []string{name}, versions
	return answerRuns(w, list, opts, err)
}

func answerRuns(w http.ResponseWriter, list state.RunList, opts state.ListOptions, err error) error {
	if err != nil {
		return err
	}
	return writeJSON(w, listAnswer{
		itemsName: "history", items: state.RunResources(list.Runs), total: list.Total, estimate: list.TotalIsEstimate, opts: opts,
	}.members())
}

func (e *endpoints) getRun(w http.ResponseWriter, r *http.Request) error {
	run, err := e.executions.Get(r.Context(), pathParam(r, "run_id"))
	if err != nil {
		return err
	}
	return writeJSON(w, run)
}

func (e *endpoints) stopRun(w http.ResponseWriter, r *http.Request) error {
	by := services.ActorFrom(r.Context()).Email
	if err := e.executions.Stop(r.Context(), pathParam(r, "run_id"), by); err != nil {
		return err
	}
	return writeJSON(w, terminatedAnswer{true})
}

type eventsAnswer struct {
	Total     int             `json:"total"`
	PodEvents state.PodEvents `json:"pod_events"`
}

func (e *endpoints) getRunEvents(w http.ResponseWriter, r *http.Request) error {
	events, err := e.executions.Events(r.Context(), pathParam(r, "run_id"))
	if err != nil {
		return err
	}
	return writeJSON(w, eventsAnswer{len(events), present(events)})
}

func (e *endpoints) getRunManifest(w http.ResponseWriter, r *http.Request) error {
	manifest, err := e.executions.Manifest(r.Context(), pathParam(r, "run_id"))
	if err != nil {
		return err
	}
	return writeBody(w, http.StatusOK, typeYAML, manifest)
}
