package state_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/testkit"
)

// oddValues are shapes that rows of existing databases have, or might have.
var oddValues = []string{
	`5`, `"text"`, `""`, `true`, `[]`, `{}`, `[5, null, "a", [1], {"b": {}}]`, `{"a": 1, "b": [2], "c": null}`,
	`[{"name": "A", "value": 5}, {"name": 6, "value": {}}, {"value": "nameless"}]`,
	`[{"timestamp": "", "event_type": 1, "more": {}}, {"timestamp": 1700000000, "reason": true}, {"timestamp": "yesterday"}]`,
	`{"Records": [5, {"userIdentity": "root", "eventName": 3}]}`,
	`{"spark_submit_job_driver": "none", "num_executors": "many", "hive_conf": {"a": 1}, "executor_oom": "maybe"}`,
}

// Runs every statement that reads rows over rows of which each holds one odd value in one column. None may fail, and
// none may lose a row.
func TestOddJSONFailsNothing(t *testing.T) {
	t.Parallel()
	logs := &testkit.Log{}
	s := newStore(t, func(c *state.ManagerConfig) { c.Logger = slog.New(slog.NewTextHandler(logs, nil)) })
	s.definition(t, "d")
	columns := []string{"env", "labels", "pod_events", "cloudtrail_notifications", "execution_request_custom", "spawned_runs",
		"run_exceptions", "spark_extension"}
	rows := 0
	for _, status := range []state.Status{state.StatusQueued, state.StatusRunning, state.StatusNeedsRetry} {
		for _, column := range columns {
			for i, odd := range oddValues {
				s.exec(t, `INSERT INTO task (run_id, definition_id, executable_id, cluster_name, status, queued_at, started_at, active_deadline_seconds,
					idempotence_key, `+column+`) VALUES ($1, 'd', 'd', 'c', $2, now(), now() - interval '1 hour', 1, $1, $3)`,
					fmt.Sprintf("%s-%s-%d", status, column, i), status, odd)
				rows++
			}
		}
	}
	perStatus := rows / 3
	ctx := t.Context()
	for _, o := range []state.ListOptions{
		{Limit: 1000}, {Limit: 1000, SortBy: "queued_at", Order: state.OrderDescending},
		{Limit: 1000, Filters: map[string][]string{"definition_id": {"d"}}},
	} {
		list, err := s.ListRuns(ctx, o)
		require.NoError(t, err)
		assert.Len(t, list.Runs, rows)
	}
	_, err := s.ListRuns(ctx, state.ListOptions{Limit: 10, Env: []state.EnvVar{{Name: "A", Value: "5"}}})
	require.NoError(t, err)
	_, err = s.ListChildRuns(ctx, "A")
	require.NoError(t, err)
	overdue, err := s.OverdueRuns(ctx, testEngines, 0, 1000)
	require.NoError(t, err)
	assert.Len(t, overdue, perStatus)
	for _, column := range columns {
		for i := range oddValues {
			id := fmt.Sprintf("%s-%s-%d", state.StatusQueued, column, i)
			run := s.get(t, id)
			created, made, err := s.CreateRun(ctx, state.Run{RunID: "again", DefinitionID: "d", Engine: state.EKSEngine, IdempotenceKey: &id})
			require.NoError(t, err)
			assert.False(t, made)
			assert.Equal(t, run.RunID, created.RunID)
		}
	}
	_, _, err = s.SelfReportRun(ctx, "RUNNING-env-0", state.SelfReport{Status: state.StatusRunning, ExitReason: new("r")})
	require.NoError(t, err)
	claimed, err := s.ClaimRuns(ctx, state.ClaimRequest{EngineKey: state.EngineKey{Cluster: "c", Engine: state.EKSEngine}, Worker: "w", Lease: time.Minute, Limit: 1000})
	require.NoError(t, err)
	assert.Len(t, claimed, perStatus)
	requeued, stopped, err := s.RequeueRetries(ctx, state.RetryPolicy{MaxAttempts: 3, Limit: 1000, Engines: testEngines})
	require.NoError(t, err)
	assert.Len(t, requeued, perStatus)
	assert.Empty(t, stopped)
	_, _, err = s.StopRun(ctx, "RUNNING-labels-0", "because")
	require.NoError(t, err)

	run := s.get(t, "QUEUED-env-8")
	assert.Equal(t, state.EnvList{{Name: "A", Value: "5"}, {Name: "6"}}, run.Env, "a variable without a name is none")
	assert.Equal(t, state.Labels{"a": "1", "c": ""}, s.get(t, "QUEUED-labels-7").Labels)
	events := s.get(t, "QUEUED-pod_events-9").PodEvents
	require.Len(t, events, 3)
	assert.Nil(t, events[0].Timestamp)
	assert.Equal(t, "1", events[0].EventType)
	assert.Equal(t, &state.SparkExtension{}, s.get(t, "QUEUED-spark_extension-1").SparkExtension)

	line := `run_id=QUEUED-env-8 column=env`
	assert.Equal(t, 1, strings.Count(logs.String(), line), "logged once, however often it is read")
}

func TestOddJSONOfDefinitionsAndTemplatesFailsNothing(t *testing.T) {
	t.Parallel()
	logs := &testkit.Log{}
	s := newStore(t, func(c *state.ManagerConfig) { c.Logger = slog.New(slog.NewTextHandler(logs, nil)) })
	for i, odd := range oddValues {
		s.exec(t, `INSERT INTO task_def (definition_id, alias, image, group_name, env) VALUES ($1, $1, 'i', 'g', $2)`, fmt.Sprint("d-", i), odd)
		for _, column := range []string{"env", "schema", "defaults", "ports", "tags"} {
			s.exec(t, `INSERT INTO template (template_id, template_name, version, command_template, image, memory, gpu, cpu, container_name, `+column+`)
				VALUES ($1, $1, 1, 'c', 'i', 1, 0, 1, 'c', $2)`, fmt.Sprint(column, "-", i), odd)
		}
	}
	definitions, err := s.ListDefinitions(t.Context(), state.ListOptions{Limit: 1000})
	require.NoError(t, err)
	assert.Len(t, definitions.Definitions, len(oddValues))
	templates, err := s.ListTemplates(t.Context(), state.ListOptions{Limit: 1000})
	require.NoError(t, err)
	assert.Len(t, templates.Templates, 5*len(oddValues))
	for i := range oddValues {
		_, err := s.GetDefinition(t.Context(), fmt.Sprint("d-", i))
		require.NoError(t, err)
	}
	for _, template := range templates.Templates {
		_, err := s.GetTemplate(t.Context(), template.TemplateID)
		require.NoError(t, err)
		again, created, err := s.CreateTemplate(context.WithoutCancel(t.Context()), template)
		require.NoError(t, err)
		assert.False(t, created, "%+v", again)
	}

	for _, line := range []string{
		"definition_id=d-8 column=env", "template_id=env-8 column=env", "template_id=schema-4 column=schema",
		"template_id=defaults-0 column=defaults", "template_id=ports-1 column=ports", "template_id=tags-6 column=tags",
	} {
		assert.Equal(t, 1, strings.Count(logs.String(), line), "%s is logged once, however often it is read", line)
	}
	assert.NotContains(t, logs.String(), "template_id=schema-5", "an object is a schema")
	assert.NotContains(t, logs.String(), "template_id=tags-4", "an array is a list of tags")
}

func TestOddSparkHistoryFailsNothing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for i, odd := range append(oddValues, `{"spark_submit_job_driver": {"num_executors": "7"}}`, `{"spark_submit_job_driver": {"num_executors": 7.5}}`) {
		s.exec(t, `INSERT INTO task (run_id, definition_id, command_hash, engine, status, queued_at, started_at, finished_at, spark_extension)
			VALUES ($1, 'd', 'h', 'eks-spark', 'STOPPED', now(), now(), now(), $2)`, fmt.Sprint("r-", i), odd)
	}
	for _, query := range []string{state.ExecutorCountSelectCommandSQL, state.ExecutorOOMSelectCommandSQL, state.DriverOOMSelectCommandSQL} {
		s.exec(t, query, "d", "h", (24 * time.Hour).Seconds(), 100)
	}
}
