package flotilla

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/stitchfix/flotilla-os/state"
)

// statusAnswer is the light status of a run: what pollers need, and nothing
// that is large. Every member is always there, null where unknown.
type statusAnswer struct {
	RunID        string       `json:"run_id"`
	Status       state.Status `json:"status"`
	QueuedAt     *time.Time   `json:"queued_at"`
	StartedAt    *time.Time   `json:"started_at"`
	FinishedAt   *time.Time   `json:"finished_at"`
	ExitCode     *int64       `json:"exit_code"`
	ExitReason   *string      `json:"exit_reason"`
	Engine       string       `json:"engine"`
	DefinitionID string       `json:"definition_id"`
	Alias        string       `json:"alias"`
	ClusterName  string       `json:"cluster_name"`
}

// statusMaxAge is how long a status may be kept by caches.
const statusMaxAge = "max-age=5"

func (e *endpoints) getRunStatus(w http.ResponseWriter, r *http.Request) error {
	run, err := e.executions.Status(r.Context(), pathParam(r, "run_id"))
	if err != nil {
		return err
	}
	tag := statusTag(run)
	w.Header().Set("Cache-Control", statusMaxAge)
	w.Header().Set("ETag", tag)
	if tagMatches(r.Header.Values("If-None-Match"), tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return writeJSON(w, statusAnswer{
		RunID: run.RunID, Status: run.Status, QueuedAt: utc(run.QueuedAt), StartedAt: utc(run.StartedAt),
		FinishedAt: utc(run.FinishedAt), ExitCode: run.ExitCode, ExitReason: run.ExitReason, Engine: run.Engine,
		DefinitionID: run.DefinitionID, Alias: run.Alias, ClusterName: run.ClusterName,
	})
}

// statusTag is the ETag of a run's status: "<status>-<exit code or unknown>".
func statusTag(run state.Run) string {
	code := "unknown"
	if run.ExitCode != nil {
		code = strconv.FormatInt(*run.ExitCode, 10)
	}
	return `"` + string(run.Status) + "-" + code + `"`
}

// tagMatches is the weak comparison of RFC 9110, section 13.1.2.
func tagMatches(headers []string, tag string) bool {
	for _, header := range headers {
		for candidate := range strings.SplitSeq(header, ",") {
			candidate = strings.TrimSpace(candidate)
			if candidate == "*" || strings.TrimPrefix(candidate, "W/") == tag {
				return true
			}
		}
	}
	return false
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	return new(t.UTC())
}

// statusReport is the body of PUT /{run_id}/status.
type statusReport struct {
	Status        string   `json:"status"`
	ExitCode      *int64   `json:"exit_code"`
	ExitReason    *string  `json:"exit_reason"`
	RunExceptions []string `json:"run_exceptions"`
}

func (b *statusReport) report() state.SelfReport {
	return state.SelfReport{
		Status: state.Status(b.Status), ExitCode: b.ExitCode, ExitReason: given(b.ExitReason), RunExceptions: b.RunExceptions,
	}
}

func (e *endpoints) reportRunStatus(w http.ResponseWriter, r *http.Request) error {
	var body statusReport
	if err := decodeBody(r, &body); err != nil {
		return err
	}
	if err := e.executions.Report(r.Context(), pathParam(r, "run_id"), body.report()); err != nil {
		return err
	}
	return writeJSON(w, updatedAnswer{true})
}
