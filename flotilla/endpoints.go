package flotilla

import (
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/services"
	"github.com/stitchfix/flotilla-os/state"
)

// endpoints are the handlers of all routes; see the file named like the
// resource. This one holds those that create runs.
type endpoints struct {
	definitions Definitions
	executions  Executions
	templates   Templates
	logs        Logs
	clusters    Clusters
	workers     Workers

	http         config.HTTP
	answerWithin time.Duration
	tokens       []apiToken
	// guarded: see RouterConfig.DevMode.
	guarded bool
	isReady readinessFunc
	openapi []byte
	metrics metrics.Client
	logger  *slog.Logger
	clock   func() time.Time
}

func newEndpoints(cfg RouterConfig) (*endpoints, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	tokens, err := parseTokens(cfg.HTTP.APITokens)
	if err != nil {
		return nil, err
	}
	document, err := openAPIDocument()
	if err != nil {
		return nil, err
	}
	return &endpoints{
		definitions: cfg.Definitions, executions: cfg.Executions, templates: cfg.Templates,
		logs: cfg.Logs, clusters: cfg.Clusters, workers: cfg.Workers,
		http: cfg.HTTP, answerWithin: answerWithin(cfg.HTTP), tokens: tokens,
		guarded: cfg.DevMode && len(tokens) == 0, isReady: cfg.Ready, openapi: document,
		metrics: cfg.Metrics, logger: cfg.Logger, clock: cfg.Clock,
	}, nil
}

func (e *endpoints) executeV1(w http.ResponseWriter, r *http.Request) error {
	var body launchV1
	if err := decodeTaken(r, &body); err != nil {
		return err
	}
	created, err := e.executions.CreateByDefinitionID(r.Context(), pathParam(r, "definition_id"), body.request())
	return answerCreated(w, created, err)
}

func (e *endpoints) executeV2(w http.ResponseWriter, r *http.Request) error {
	var body launchV2
	if err := decodeTaken(r, &body); err != nil {
		return err
	}
	request, err := body.request()
	if err != nil {
		return err
	}
	created, err := e.executions.CreateByDefinitionID(r.Context(), pathParam(r, "definition_id"), request)
	return answerCreated(w, created, err)
}

// definitionLaunch reads what a run of a definition is asked for with.
func definitionLaunch(r *http.Request) (*state.DefinitionExecutionRequest, error) {
	var body launchRequest
	if err := decodeBody(r, &body); err != nil {
		return nil, err
	}
	return body.request()
}

func (e *endpoints) execute(w http.ResponseWriter, r *http.Request) error {
	request, err := definitionLaunch(r)
	if err != nil {
		return err
	}
	created, err := e.executions.CreateByDefinitionID(r.Context(), pathParam(r, "definition_id"), request)
	return answerCreated(w, created, err)
}

func (e *endpoints) executeByAlias(w http.ResponseWriter, r *http.Request) error {
	request, err := definitionLaunch(r)
	if err != nil {
		return err
	}
	created, err := e.executions.CreateByAlias(r.Context(), pathParam(r, "alias"), request)
	return answerCreated(w, created, err)
}

// templateLaunch reads what a run of a template is asked for with.
func templateLaunch(r *http.Request) (*state.TemplateExecutionRequest, error) {
	var body templateLaunchRequest
	if err := decodeBody(r, &body); err != nil {
		return nil, err
	}
	return body.request()
}

func (e *endpoints) executeTemplate(w http.ResponseWriter, r *http.Request) error {
	request, err := templateLaunch(r)
	if err != nil {
		return err
	}
	created, err := e.templates.Execute(r.Context(), pathParam(r, "template_id"), request)
	return answerCreated(w, created, err)
}

func (e *endpoints) executeTemplateVersion(w http.ResponseWriter, r *http.Request) error {
	request, err := templateLaunch(r)
	if err != nil {
		return err
	}
	name, version := pathParam(r, "template_name"), pathParam(r, "template_version")
	created, err := e.templates.ExecuteVersion(r.Context(), name, version, request)
	return answerCreated(w, created, err)
}

// warnAgent names us in Warning headers; 299 is their code for "miscellaneous,
// persistent" (RFC 7234, section 5.5.7).
const warnAgent = "299 flotilla "

// maxWarning bounds a warning in bytes: it may repeat a name of any length.
const maxWarning = 300

func answerCreated(w http.ResponseWriter, created services.Created, err error) error {
	if err != nil {
		return err
	}
	for _, warning := range created.Warnings {
		w.Header().Add("Warning", warnAgent+strconv.QuoteToASCII(clipTo(warning, maxWarning)))
	}
	return writeJSON(w, created.Run)
}
