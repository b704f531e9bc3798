package flotilla

import (
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/stitchfix/flotilla-os/api"
	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/flotilla/auth"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/services"
	"github.com/stitchfix/flotilla-os/state"
)

// endpoints holds the handlers of all routes, in files named like the
// resources. This file holds the handlers that create runs.
type endpoints struct {
	definitions Definitions
	executions  Executions
	templates   Templates
	logs        Logs
	clusters    Clusters
	workers     Workers

	http         config.HTTP
	answerWithin time.Duration
	gate         *auth.Gate
	isReady      readinessFunc
	openapi      []byte
	metrics      metrics.Client
	logger       *slog.Logger
	clock        func() time.Time
}

// ownerV1 is the owner of every run that was created through v1.
const ownerV1 = "v1-unknown"

func (e *endpoints) executeV1(w http.ResponseWriter, r *http.Request) error {
	var body api.LaunchV1
	if err := readTaken(w, r, &body); err != nil {
		return err
	}
	common := &state.ExecutionRequestCommon{
		ClusterName: body.Cluster, OwnerID: ownerV1, Env: envOf(body.Env), Engine: new(state.EKSEngine), Tier: body.Tier,
	}
	created, err := e.executions.CreateFromDefinition(r.Context(), definitionRef(r), &state.DefinitionExecutionRequest{ExecutionRequestCommon: common})
	return writeCreated(w, created, err)
}

func (e *endpoints) executeV2(w http.ResponseWriter, r *http.Request) error {
	var body api.LaunchV2
	if err := readTaken(w, r, &body); err != nil {
		return err
	}
	if body.RunTags.OwnerEmail == "" || body.RunTags.TeamName == "" {
		return state.Malformedf("the fields run_tags.owner_email and run_tags.team_name are both needed")
	}
	common, err := executionRequest(api.LaunchFields{LaunchBasics: body.LaunchBasics}, body.RunTags.OwnerEmail)
	if err != nil {
		return err
	}
	created, err := e.executions.CreateFromDefinition(r.Context(), definitionRef(r), &state.DefinitionExecutionRequest{ExecutionRequestCommon: common})
	return writeCreated(w, created, err)
}

// execute serves v4 and v6, and execute by alias.
func (e *endpoints) execute(w http.ResponseWriter, r *http.Request) error {
	var body api.Launch
	ref := definitionRef(r)
	if _, err := readJSON(w, r, &body); err != nil {
		return err
	}
	if body.RunTags.OwnerID == "" {
		return state.Malformedf("the field run_tags.owner_id is missing")
	}
	common, err := executionRequest(body.LaunchFields, body.RunTags.OwnerID)
	if err != nil {
		return err
	}
	created, err := e.executions.CreateFromDefinition(r.Context(), ref, &state.DefinitionExecutionRequest{ExecutionRequestCommon: common})
	return writeCreated(w, created, err)
}

func (e *endpoints) executeTemplate(w http.ResponseWriter, r *http.Request) error {
	request, err := readTemplateLaunch(w, r)
	if err != nil {
		return err
	}
	created, err := e.templates.Execute(r.Context(), pathParam(r, "template_id"), request)
	return writeCreated(w, created, err)
}

func (e *endpoints) executeTemplateVersion(w http.ResponseWriter, r *http.Request) error {
	request, err := readTemplateLaunch(w, r)
	if err != nil {
		return err
	}
	name, version := pathParam(r, "template_name"), pathParam(r, "template_version")
	created, err := e.templates.ExecuteVersion(r.Context(), name, version, request)
	return writeCreated(w, created, err)
}

func readTemplateLaunch(w http.ResponseWriter, r *http.Request) (*state.TemplateExecutionRequest, error) {
	var body api.TemplateLaunch
	if _, err := readJSON(w, r, &body); err != nil {
		return nil, err
	}
	if body.OwnerID == "" {
		return nil, state.Malformedf("the field owner_id is missing")
	}
	common, err := executionRequest(body.LaunchFields, body.OwnerID)
	if err != nil {
		return nil, err
	}
	if body.ClusterName != "" {
		common.ClusterName, common.ClusterRequired = body.ClusterName, true
	}
	return &state.TemplateExecutionRequest{
		ExecutionRequestCommon: common, TemplatePayload: body.TemplatePayload, DryRun: body.DryRun,
	}, nil
}

// writeCreated writes a run that was created, with its warnings as headers.
func writeCreated(w http.ResponseWriter, created services.Created, err error) error {
	if err != nil {
		return err
	}
	for _, warning := range created.Warnings {
		warn(w, warning)
	}
	return writeJSON(w, runAnswer(&created.Run))
}

// maxWarning bounds a warning in bytes: it may repeat a name of any length.
const maxWarning = 300

// warn adds a Warning header. 299 is its code for "miscellaneous, persistent" (RFC 7234, section 5.5.7).
func warn(w http.ResponseWriter, warning string) {
	w.Header().Add("Warning", "299 flotilla "+strconv.QuoteToASCII(state.Shorten(warning, maxWarning)))
}
