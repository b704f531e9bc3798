package flotilla

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
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

func runAnswer(r *state.Run) api.Run {
	return api.Run{
		RunID: r.RunID, DefinitionID: r.DefinitionID, Alias: r.Alias, Image: r.Image, Cluster: r.ClusterName,
		ExitCode: r.ExitCode, ExitReason: valueOf(r.ExitReason), Status: api.Status(r.Status), StatusReason: valueOf(r.StatusReason),
		QueuedAt: utc(r.QueuedAt), StartedAt: utc(r.StartedAt), FinishedAt: utc(r.FinishedAt),
		Instance: api.Instance{InstanceID: r.InstanceID, DNSName: r.InstanceDNS}, GroupName: r.GroupName, User: r.User,
		TaskType: r.TaskType, Env: envAnswer(r.Env), Command: valueOf(r.Command), CommandHash: valueOf(r.CommandHash),
		Memory: r.Memory, MemoryLimit: r.MemoryLimit, CPU: r.CPU, CPULimit: r.CPULimit, GPU: r.GPU,
		Engine: r.Engine, NodeLifecycle: valueOf(r.NodeLifecycle), EphemeralStorage: r.EphemeralStorage,
		PodName: valueOf(r.PodName), Namespace: valueOf(r.Namespace), MaxMemoryUsed: r.MaxMemoryUsed, MaxCPUUsed: r.MaxCPUUsed,
		PodEvents: mapped(r.PodEvents, eventAnswer), CloudTrail: cloudTrailAnswer(r.CloudTrail),
		ExecutableID: valueOf(r.ExecutableID), ExecutableType: string(r.ExecutableType), RequestCustom: r.RequestCustom,
		AttemptCount:  r.AttemptCount,
		SpawnedRuns:   mapped(r.SpawnedRuns, func(s *state.SpawnedRun) api.SpawnedRun { return api.SpawnedRun(*s) }),
		RunExceptions: r.RunExceptions, ActiveDeadlineSeconds: r.ActiveDeadlineSeconds, SparkExtension: sparkAnswer(r),
		MetricsURI: valueOf(r.MetricsURI), Description: r.Description, IdempotenceKey: valueOf(r.IdempotenceKey),
		Arch: valueOf(r.Arch), Labels: r.Labels, RequiresDocker: r.RequiresDocker, ServiceAccount: valueOf(r.ServiceAccount),
		Tier: r.Tier,
	}
}

func eventAnswer(e *state.PodEvent) api.PodEvent {
	answer := api.PodEvent(*e)
	answer.Timestamp = utc(e.Timestamp)
	return answer
}

func cloudTrailAnswer(c state.CloudTrailNotifications) (answer api.CloudTrail) {
	if c.Records == nil {
		return answer
	}
	answer.Records = mapped(c.Records, func(r *state.CloudTrailRecord) api.CloudTrailRecord {
		return api.CloudTrailRecord{UserIdentity: api.CloudTrailIdentity(r.UserIdentity), EventSource: r.EventSource, EventName: r.EventName}
	})
	return answer
}

// noSpark is the extension of runs that have none.
var noSpark = api.SparkExtension(`{}`)

// sparkAnswer returns the Spark extension of a run as it is shown: secrets
// hidden, executors taken from the pod events, and the live page as history
// page while the run has not stopped.
func sparkAnswer(r *state.Run) api.SparkExtension {
	if r.SparkExtension == nil {
		return noSpark
	}
	shown := *r.SparkExtension
	shown.HiveConf = slices.Clone(shown.HiveConf)
	for i, conf := range shown.HiveConf {
		if conf.Value != nil && strings.Contains(valueOf(conf.Name), "ConnectionPassword") {
			shown.HiveConf[i].Value = new("****")
		}
	}
	if executors := executorsOf(r.PodEvents); len(executors) > 0 {
		shown.Executors = executors
	}
	if !r.Status.Final() && valueOf(shown.AppURI) != "" {
		shown.HistoryURI = shown.AppURI
	}
	raw, err := json.Marshal(shown)
	if err != nil {
		return noSpark // It was read from JSON, so it can be written as JSON.
	}
	return raw
}

// executorPod finds the number of an executor in the name of its pod.
var executorPod = regexp.MustCompile(`-exec-(\d+)$`)

// executorsOf lists the executor pods that the events name, once each, in the
// order of their numbers.
func executorsOf(events state.PodEvents) []string {
	number := map[string]int{}
	var pods []string
	for _, event := range events {
		match := executorPod.FindStringSubmatch(event.SourceObject)
		if _, seen := number[event.SourceObject]; seen || match == nil {
			continue
		}
		n, err := strconv.Atoi(match[1])
		if err != nil {
			continue
		}
		number[event.SourceObject] = n
		pods = append(pods, event.SourceObject)
	}
	slices.SortStableFunc(pods, func(a, b string) int { return number[a] - number[b] })
	return pods
}
