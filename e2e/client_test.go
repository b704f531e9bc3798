package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// object is a JSON object.
type object = map[string]any

// call sends a request and decodes the body of a 200 into out, which may be a *string for text. err reports that there
// was no answer or that it could not be decoded.
func call(ctx context.Context, method, url string, body, out any) (status int, err error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(raw))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK || out == nil {
		return resp.StatusCode, nil
	}
	if text, ok := out.(*string); ok {
		*text = string(answer)
		return resp.StatusCode, nil
	}
	return resp.StatusCode, json.Unmarshal(answer, out)
}

// call sends a request for a path of the server.
func (s *server) call(method, path string, body, out any) (status int, err error) {
	ctx, cancel := context.WithTimeout(s.in.t.Context(), patience)
	defer cancel()
	return call(ctx, method, s.url+path, body, out)
}

// mustCall sends a request for a path below /api/v6 and requires status 200.
func (s *server) mustCall(method, path string, body, out any) {
	s.in.t.Helper()
	status, err := s.call(method, "/api/v6"+path, body, out)
	require.NoError(s.in.t, err)
	require.Equal(s.in.t, http.StatusOK, status, "%s %s", method, path)
}

// define creates a definition that runs command and returns its id. The given fields replace the defaults.
func (s *server) define(command string, fields ...object) string {
	s.in.t.Helper()
	body := object{"alias": "e2e-" + uuid.NewString(), "group_name": "e2e", "command": command}
	for _, given := range append([]object{s.in.definition}, fields...) {
		maps.Copy(body, given)
	}
	var made struct {
		ID string `json:"definition_id"`
	}
	s.mustCall(http.MethodPost, "/task", body, &made)
	return made.ID
}

// runRequest returns the body of a request for a run.
func runRequest(fields ...object) object {
	body := object{"run_tags": object{"owner_id": "e2e"}}
	for _, given := range fields {
		maps.Copy(body, given)
	}
	return body
}

// created is the part of an answer to a request for a run that tests need.
type created struct {
	ID string `json:"run_id"`
}

// run submits a run and returns its id.
func (s *server) run(definition string, fields ...object) string {
	s.in.t.Helper()
	var run created
	s.mustCall(http.MethodPut, "/task/"+definition+"/execute", runRequest(fields...), &run)
	return run.ID
}

// tryRun submits a run to a server that may die. It returns the run's id, or "" if the run was not acknowledged.
func (s *server) tryRun(definition string) string {
	var run created
	_, _ = s.call(http.MethodPut, "/api/v6/task/"+definition+"/execute", runRequest(), &run)
	return run.ID
}

// shownRun is a run as the API shows it. Memory is in MB, CPU in millicores.
type shownRun struct {
	DefinitionID  string       `json:"definition_id"`
	Status        state.Status `json:"status"`
	StatusReason  string       `json:"status_reason"`
	ExitCode      *int64       `json:"exit_code"`
	ExitReason    string       `json:"exit_reason"`
	Attempts      int64        `json:"attempt_count"`
	Memory        int64        `json:"memory"`
	MemoryLimit   int64        `json:"memory_limit"`
	CPU           int64        `json:"cpu"`
	CPULimit      int64        `json:"cpu_limit"`
	PodName       string       `json:"pod_name"`
	Namespace     string       `json:"namespace"`
	MaxMemoryUsed int64        `json:"max_memory_used"`
	MaxCPUUsed    int64        `json:"max_cpu_used"`
	StartedAt     *time.Time   `json:"started_at"`
	FinishedAt    *time.Time   `json:"finished_at"`
	PodEvents     []struct {
		Reason       string     `json:"reason"`
		Timestamp    *time.Time `json:"timestamp"`
		SourceObject string     `json:"source_object"`
	} `json:"pod_events"`
	Instance struct {
		DNSName string `json:"dns_name"`
	} `json:"instance"`
}

// code returns the exit code, or nil if there is none.
func (r shownRun) code() any {
	if r.ExitCode == nil {
		return nil
	}
	return *r.ExitCode
}

// get returns a run.
func (s *server) get(id string) shownRun {
	s.in.t.Helper()
	var run shownRun
	s.mustCall(http.MethodGet, "/history/"+id, nil, &run)
	return run
}

// awaitRun waits until wanted accepts the run, and returns the run.
func (s *server) awaitRun(id, what string, wanted func(shownRun) bool) shownRun {
	s.in.t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		run := s.get(id)
		if wanted(run) {
			return run
		}
		if time.Now().After(deadline) {
			require.FailNow(s.in.t, "the run did not become "+what, "run %s: %+v", id, run)
		}
		select {
		case <-s.in.t.Context().Done():
			require.FailNow(s.in.t, "the test is over")
		case <-tick.C:
		}
	}
}

func (s *server) awaitStatus(id string, status state.Status) shownRun {
	s.in.t.Helper()
	return s.awaitRun(id, string(status), func(r shownRun) bool { return r.Status == status })
}

// awaitStopped waits for the end of a run and returns the run.
func (s *server) awaitStopped(id string) shownRun {
	s.in.t.Helper()
	return s.awaitStatus(id, state.StatusStopped)
}

// awaitReason waits until a run is QUEUED with a reason, and returns the reason.
func (s *server) awaitReason(id string) string {
	s.in.t.Helper()
	return s.awaitRun(id, "QUEUED with a reason", func(r shownRun) bool {
		return r.Status == state.StatusQueued && r.StatusReason != ""
	}).StatusReason
}

// terminate stops a run as its user does.
func (s *server) terminate(id string) {
	s.in.t.Helper()
	s.mustCall(http.MethodDelete, "/task/"+s.get(id).DefinitionID+"/history/"+id, nil, nil)
}

// log returns the whole log of a run.
func (s *server) log(id string) string {
	s.in.t.Helper()
	var log string
	s.mustCall(http.MethodGet, "/"+id+"/logs?raw_text=true", nil, &log)
	return log
}

// counted returns the sum of a counter over all its labels, read from /metrics.
func (s *server) counted(m metrics.Metric) float64 {
	s.in.t.Helper()
	var page string
	status, err := s.call(http.MethodGet, "/metrics", nil, &page)
	require.NoError(s.in.t, err)
	require.Equal(s.in.t, http.StatusOK, status)
	name := strings.ReplaceAll(string(m), ".", "_") + "_total"
	sum := 0.0
	for line := range strings.Lines(page) {
		rest, found := strings.CutPrefix(line, name+"{")
		if !found {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndex(rest, " "):]), 64)
		require.NoError(s.in.t, err)
		assert.Contains(s.in.t, rest, `cluster="local"`)
		assert.Contains(s.in.t, rest, `engine="eks"`)
		sum += value
	}
	return sum
}
