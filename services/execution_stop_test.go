package services

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

func (b *bench) child(t *testing.T, d state.Definition, parents ...string) state.Run {
	t.Helper()
	var env state.EnvList
	for _, parent := range parents {
		env = append(env, state.EnvVar{Name: state.ParentRunEnv, Value: parent})
	}
	return b.run(t, d, state.ExecutionRequestCommon{Env: env})
}

func (b *bench) status(t *testing.T, id string) state.Run {
	t.Helper()
	run, err := b.executions.Status(t.Context(), id)
	require.NoError(t, err)
	return run
}

func TestStop(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	run := b.run(t, b.definition(t, nil), state.ExecutionRequestCommon{})
	ctx := WithActor(t.Context(), Actor{Email: "ada@example.com", Token: "ci"})
	require.NoError(t, b.executions.Stop(ctx, run.RunID, "ada@example.com"))

	stopped := b.status(t, run.RunID)
	assert.Equal(t, state.StatusStopped, stopped.Status)
	assert.EqualValues(t, 1, *stopped.ExitCode)
	assert.Equal(t, "Task terminated by - ada@example.com", *stopped.ExitReason)
	assert.NotNil(t, stopped.FinishedAt)
	assert.Contains(t, b.log.String(), `"event":"FlotillaTaskStatus","who":"ada@example.com","token":"ci"`)

	require.NoError(t, b.executions.Stop(t.Context(), run.RunID, "eve"), "already stopped is no error")
	assert.Equal(t, stopped, b.status(t, run.RunID), "and changes nothing")

	require.NoError(t, b.executions.Close(context.Background()))
	assert.Equal(t, []string{run.RunID}, b.engine.ended(), "the engine ends the run once, after Stop returned")
}

func TestStopEndsDescendantsAndCirclesEnd(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	d := b.definition(t, nil)
	root := b.run(t, d, state.ExecutionRequestCommon{})
	child := b.child(t, d, root.RunID)
	grandchild := b.child(t, d, child.RunID)
	late := b.child(t, d, grandchild.RunID)
	other := b.run(t, d, state.ExecutionRequestCommon{})
	// The root names its grandchild as its parent: a circle.
	b.exec(t, `UPDATE task SET env = env || jsonb_build_object('name', $2::text, 'value', $3::text) WHERE run_id = $1`,
		root.RunID, state.ParentRunEnv, grandchild.RunID)
	b.exec(t, `UPDATE task SET status = 'STOPPED', exit_code = 0 WHERE run_id = $1`, grandchild.RunID)

	require.NoError(t, b.executions.Stop(t.Context(), root.RunID, ""))
	for _, run := range []state.Run{root, child, late} {
		got := b.status(t, run.RunID)
		assert.Equal(t, state.StatusStopped, got.Status)
		assert.Equal(t, "Task terminated by user", *got.ExitReason)
	}
	assert.EqualValues(t, 0, *b.status(t, grandchild.RunID).ExitCode, "what has ended keeps its code")
	assert.Equal(t, state.StatusQueued, b.status(t, other.RunID).Status)
}

func TestReport(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	d := b.definition(t, nil)
	run := b.run(t, d, state.ExecutionRequestCommon{})
	b.exec(t, `UPDATE task SET status = 'RUNNING' WHERE run_id = $1`, run.RunID)

	var malformed state.MalformedInput
	require.ErrorAs(t, b.executions.Report(t.Context(), run.RunID, state.SelfReport{Status: "DONE"}), &malformed)
	require.ErrorAs(t, b.executions.Report(t.Context(), run.RunID, state.SelfReport{}), &malformed)
	require.ErrorAs(t, b.executions.Report(t.Context(), run.RunID, state.SelfReport{Status: "STOPPED", ExitCode: new(int64(1 << 40))}), &malformed)
	require.ErrorAs(t, b.executions.Report(t.Context(), run.RunID, state.SelfReport{Status: "STOPPED", RunExceptions: []string{"\x00"}}), &malformed)

	require.NoError(t, b.executions.Report(t.Context(), run.RunID, state.SelfReport{Status: "QUEUED"}))
	assert.Equal(t, state.StatusRunning, b.status(t, run.RunID).Status, "never back")

	require.NoError(t, b.executions.Report(t.Context(), run.RunID, state.SelfReport{
		Status: "STOPPED", ExitCode: new(int64(3)), RunExceptions: []string{"KeyError: 'x'"},
	}))
	got := b.status(t, run.RunID)
	assert.Equal(t, state.StatusStopped, got.Status)
	assert.EqualValues(t, 3, *got.ExitCode)
	assert.Equal(t, "Data or argument error", *got.ExitReason)
	assert.Equal(t, state.Strings{"KeyError: 'x'"}, got.RunExceptions)

	require.NoError(t, b.executions.Report(t.Context(), run.RunID, state.SelfReport{Status: "STOPPED", ExitCode: new(int64(0))}))
	assert.EqualValues(t, 3, *b.status(t, run.RunID).ExitCode)
	require.NoError(t, b.executions.Close(context.Background()))
	assert.Equal(t, []string{run.RunID}, b.engine.ended(), "a run so stopped has its job deleted")
}

func TestReportInventsNoReason(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	run := b.run(t, b.definition(t, nil), state.ExecutionRequestCommon{})
	require.NoError(t, b.executions.Report(t.Context(), run.RunID, state.SelfReport{Status: "STOPPED", ExitReason: new("")}))
	assert.Nil(t, b.status(t, run.RunID).ExitReason)
}

func TestReasonOf(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		exceptions []string
		want       string
	}{
		"a timeout":                       {[]string{"ReadTimeout: x"}, "Connection error to downstream uri"},
		"a status as a word":              {[]string{"got 502 from host"}, "Connection error to downstream uri"},
		"digits that are no status":       {[]string{"row 15020"}, "Runtime exception encountered"},
		"pip":                             {[]string{"No matching distribution found for x"}, "Python pip package installation error"},
		"yum":                             {[]string{"Error: Nothing to do"}, "Yum installation error"},
		"git":                             {[]string{"fatal: Could not read from remote repository."}, "Git clone error"},
		"data":                            {[]string{"HTTP 404"}, "Data or argument error"},
		"code":                            {[]string{"TypeError: x"}, "Code or syntax error"},
		"the first rule, whichever entry": {[]string{"TypeError", "connectionerror"}, "Connection error to downstream uri"},
		"nothing that is known":           {[]string{"boom"}, "Runtime exception encountered"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, reasonOf(c.exceptions))
		})
	}
}
