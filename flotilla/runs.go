package flotilla

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/stitchfix/flotilla-os/api"
	"github.com/stitchfix/flotilla-os/services"
	"github.com/stitchfix/flotilla-os/state"
)

func (e *endpoints) listRuns(w http.ResponseWriter, r *http.Request) error {
	opts, err := listOptions(r, state.DefaultRunSort)
	if err != nil {
		return err
	}
	list, err := e.executions.List(r.Context(), opts)
	return writeRuns(w, list, opts, err)
}

func (e *endpoints) listRunsOfDefinition(w http.ResponseWriter, r *http.Request) error {
	opts, err := listOptions(r, state.DefaultRunSort)
	if err != nil {
		return err
	}
	id := pathParam(r, "definition_id")
	opts.Filters["definition_id"] = []string{id}
	list, err := e.executions.ListForExecutable(r.Context(), id, opts)
	return writeRuns(w, list, opts, err)
}

func (e *endpoints) listRunsOfTemplate(w http.ResponseWriter, r *http.Request) error {
	opts, err := listOptions(r, state.DefaultRunSort)
	if err != nil {
		return err
	}
	id := pathParam(r, "template_id")
	opts.Filters["executable_id"] = []string{id}
	list, err := e.templates.History(r.Context(), id, opts)
	return writeRuns(w, list, opts, err)
}

func (e *endpoints) listRunsOfTemplateName(w http.ResponseWriter, r *http.Request) error {
	opts, err := listOptions(r, state.DefaultRunSort)
	if err != nil {
		return err
	}
	name := pathParam(r, "template_name")
	list, versions, err := e.templates.HistoryByName(r.Context(), name, opts)
	opts.Filters["template_name"], opts.Filters["executable_id"] = []string{name}, versions
	return writeRuns(w, list, opts, err)
}

func writeRuns(w http.ResponseWriter, list state.RunList, opts state.ListOptions, err error) error {
	if err != nil {
		return err
	}
	page := api.Page{Total: list.Total, TotalIsEstimate: list.TotalIsEstimate}
	return writeList(w, "history", mapped(list.Runs, runAnswer), page, opts)
}

func (e *endpoints) getRun(w http.ResponseWriter, r *http.Request) error {
	run, err := e.executions.Get(r.Context(), pathParam(r, "run_id"))
	if err != nil {
		return err
	}
	return writeJSON(w, runAnswer(&run))
}

func (e *endpoints) stopRun(w http.ResponseWriter, r *http.Request) error {
	by := services.ActorFrom(r.Context()).Email
	if err := e.executions.Stop(r.Context(), pathParam(r, "run_id"), by); err != nil {
		return err
	}
	return writeJSON(w, api.Terminated{Terminated: true})
}

func (e *endpoints) getRunEvents(w http.ResponseWriter, r *http.Request) error {
	events, err := e.executions.Events(r.Context(), pathParam(r, "run_id"))
	if err != nil {
		return err
	}
	return writeJSON(w, api.Events{Total: len(events), PodEvents: mapped(events, eventAnswer)})
}

func (e *endpoints) getRunManifest(w http.ResponseWriter, r *http.Request) error {
	manifest, err := e.executions.Manifest(r.Context(), pathParam(r, "run_id"))
	if err != nil {
		return err
	}
	return writeBody(w, http.StatusOK, typeYAML, manifest)
}

// getRunStatus writes the light status, which caches may keep for 5 s.
func (e *endpoints) getRunStatus(w http.ResponseWriter, r *http.Request) error {
	run, err := e.executions.Status(r.Context(), pathParam(r, "run_id"))
	if err != nil {
		return err
	}
	code := "unknown"
	if run.ExitCode != nil {
		code = strconv.FormatInt(*run.ExitCode, 10)
	}
	tag := `"` + string(run.Status) + "-" + code + `"`
	w.Header().Set("Cache-Control", "max-age=5")
	w.Header().Set("ETag", tag)
	if tagMatches(r.Header.Values("If-None-Match"), tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return writeJSON(w, api.LightStatus{
		RunID: run.RunID, Status: api.Status(run.Status), QueuedAt: utc(run.QueuedAt), StartedAt: utc(run.StartedAt),
		FinishedAt: utc(run.FinishedAt), ExitCode: run.ExitCode, ExitReason: valueOf(run.ExitReason), Engine: run.Engine,
		DefinitionID: run.DefinitionID, Alias: run.Alias, ClusterName: run.ClusterName,
	})
}

// tagMatches is the weak comparison of RFC 9110, section 13.1.2.
func tagMatches(headers []string, tag string) bool {
	for candidate := range strings.SplitSeq(strings.Join(headers, ","), ",") {
		candidate = strings.TrimSpace(candidate)
		if candidate == "*" || strings.TrimPrefix(candidate, "W/") == tag {
			return true
		}
	}
	return false
}

func (e *endpoints) reportRunStatus(w http.ResponseWriter, r *http.Request) error {
	var body api.StatusReport
	if _, err := readJSON(w, r, &body); err != nil {
		return err
	}
	err := e.executions.Report(r.Context(), pathParam(r, "run_id"), state.SelfReport{
		Status: state.Status(body.Status), ExitCode: body.ExitCode, ExitReason: given(body.ExitReason), RunExceptions: body.RunExceptions,
	})
	if err != nil {
		return err
	}
	return writeJSON(w, api.Updated{Updated: true})
}
