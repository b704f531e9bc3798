package services

import (
	"crypto/md5"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

func TestCommandHashCalculatedFromCommand(t *testing.T) {
	t.Parallel()
	ctx, executionService := t.Context(), newBench(t).executions
	definition := state.Definition{DefinitionID: "d", Alias: "a"}
	req := &state.DefinitionExecutionRequest{
		ExecutionRequestCommon: &state.ExecutionRequestCommon{
			Command:     new("python script.py --arg value"),
			Description: new("Different description"),
		},
	}

	run, err := executionService.constructBaseRunFromExecutable(ctx, definition, req)

	require.NoError(t, err)
	expectedHash := fmt.Sprintf("%x", md5.Sum([]byte("python script.py --arg value")))
	assert.Equal(t, expectedHash, *run.CommandHash)
	assert.NotEqual(t, fmt.Sprintf("%x", md5.Sum([]byte("Different description"))), *run.CommandHash)
}

func TestCommandHashWithSameDescriptionDifferentCommands(t *testing.T) {
	t.Parallel()
	ctx, executionService := t.Context(), newBench(t).executions
	definition := state.Definition{DefinitionID: "d", Alias: "a"}
	description := "Daily processing job"

	req1 := &state.DefinitionExecutionRequest{
		ExecutionRequestCommon: &state.ExecutionRequestCommon{
			Command:     new("python process.py --date 2025-01-01"),
			Description: new(description),
		},
	}

	req2 := &state.DefinitionExecutionRequest{
		ExecutionRequestCommon: &state.ExecutionRequestCommon{
			Command:     new("python process.py --date 2025-01-02"),
			Description: new(description),
		},
	}

	run1, err1 := executionService.constructBaseRunFromExecutable(ctx, definition, req1)
	run2, err2 := executionService.constructBaseRunFromExecutable(ctx, definition, req2)

	require.NoError(t, err1)
	require.NoError(t, err2)
	assert.NotEqual(t, run1.CommandHash, run2.CommandHash,
		"Different commands should have different hashes even with same description")
	assert.NotEqual(t, *run1.CommandHash, *run2.CommandHash)
}

// These are the cases of ara.md section 7 that this package decides. Each row is read back from the database, where
// Postgres computes the hash a second time.
func TestCommandAndHashOfStoredRuns(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	spark := func(args ...string) *state.SparkExtension {
		return &state.SparkExtension{SparkSubmitJobDriver: &state.SparkSubmitJobDriver{
			EntryPoint: new("s3://bucket/job.py"), EntryPointArguments: args, Class: new("com.example.Main"),
			PyFiles: []string{"a.py", "b.py"}, Jars: []string{"c.jar"}, Files: []string{"d e.conf"},
			SparkSubmitConf: []state.SparkConf{{Name: new("spark.executor.memory"), Value: new("4g")}},
		}}
	}
	line := "spark-submit --class com.example.Main --py-files a.py,b.py --jars c.jar --files 'd e.conf' s3://bucket/job.py"
	cases := map[string]struct {
		definition *string
		req        state.ExecutionRequestCommon
		want       *string
	}{
		"the request's command":                       {new("echo d"), state.ExecutionRequestCommon{Command: new("echo r")}, new("echo r")},
		"the definition's where the request has none": {new("echo d"), state.ExecutionRequestCommon{}, new("echo d")},
		"the definition's where the request's is ''":  {new("echo d"), state.ExecutionRequestCommon{Command: new("")}, new("echo d")},
		"no command anywhere":                         {nil, state.ExecutionRequestCommon{Description: new("words")}, nil},
		"an empty command is no command":              {new(""), state.ExecutionRequestCommon{Command: new("")}, nil},
		"a hash of the client's is ignored":           {nil, state.ExecutionRequestCommon{Command: new("x"), CommandHash: new("poison")}, new("x")},
		"and without a command, too":                  {nil, state.ExecutionRequestCommon{CommandHash: new("poison")}, nil},
		"unicode":                                     {nil, state.ExecutionRequestCommon{Command: new("echo 'žluťoučký 🐎'")}, new("echo 'žluťoučký 🐎'")},
		"many lines":                                  {nil, state.ExecutionRequestCommon{Command: new("set -e\r\n\techo 1\n\n")}, new("set -e\r\n\techo 1\n\n")},
		"a blank command is one":                      {nil, state.ExecutionRequestCommon{Command: new(" ")}, new(" ")},
		"spark with a command":                        {nil, state.ExecutionRequestCommon{Command: new("mine"), Engine: new("eks-spark"), SparkExtension: spark()}, new("mine")},
		"spark without one":                           {new("echo d"), state.ExecutionRequestCommon{Engine: new("eks-spark"), SparkExtension: spark()}, new(line)},
		"spark with arguments":                        {nil, state.ExecutionRequestCommon{SparkExtension: spark("--day", "it's 1")}, new(line + ` --day 'it'"'"'s 1'`)},
		"spark without an entry point":                {nil, state.ExecutionRequestCommon{SparkExtension: &state.SparkExtension{}}, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := b.definition(t, func(d *state.Definition) { d.Command = c.definition })
			run := b.run(t, d, c.req)
			assert.Equal(t, c.want, run.Command)
			var command, hash, postgres *string
			require.NoError(t, b.db.QueryRowContext(t.Context(), `SELECT command, command_hash, md5(command) FROM task WHERE run_id = $1`, run.RunID).
				Scan(&command, &hash, &postgres))
			assert.Equal(t, c.want, command)
			assert.Equal(t, postgres, hash)
			assert.Equal(t, hash, run.CommandHash)
		})
	}
}

func TestSparkIdentityIgnoresConfiguration(t *testing.T) {
	t.Parallel()
	line := func(memory string) string {
		return sparkSubmitLine(&state.SparkExtension{SparkSubmitJobDriver: &state.SparkSubmitJobDriver{
			EntryPoint: new("j.py"), SparkSubmitConf: []state.SparkConf{{Name: new("m"), Value: &memory}}, NumExecutors: new(int64(len(memory))),
		}})
	}
	assert.Equal(t, line("4g"), line("16g"))
}

func TestNewRun(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	d := b.definition(t, func(d *state.Definition) {
		d.Alias, d.GPU, d.RequiresDocker, d.EphemeralStorage, d.Memory = "the-alias", nil, true, new(int64(77)), new(int64(900))
		d.Env = state.EnvList{{Name: "FROM_DEFINITION", Value: "1"}}
	})
	run := b.run(t, d, state.ExecutionRequestCommon{
		OwnerID: "ada", Memory: new(int64(2048)), Arch: new("sparc"), Labels: state.Labels{"team": "data"},
		ServiceAccount: new(""), Env: state.EnvList{
			{Name: "A", Value: "1"}, {Name: "FLOTILLA_RUN_ID", Value: "stolen"}, {Name: "FLOTILLA_SERVER_MODE", Value: "x"},
			{Name: "FLOTILLA_RUN_OWNER_ID", Value: "root"}, {Name: "AWS_ROLE_SESSION_NAME", Value: "x"}, {Name: "B", Value: "2"},
		},
	})

	assert.Regexp(t, `^eks-[0-9a-f-]{32}$`, run.RunID)
	assert.Equal(t, state.StatusQueued, run.Status)
	assert.NotNil(t, run.QueuedAt)
	assert.Equal(t, d.DefinitionID, run.DefinitionID)
	assert.Equal(t, d.DefinitionID, *run.ExecutableID)
	assert.Equal(t, state.ExecutableTypeDefinition, run.ExecutableType)
	assert.Equal(t, "the-alias", run.Alias)
	assert.Equal(t, "the-alias", run.Description, "the alias where none was given")
	assert.Equal(t, "tests", run.GroupName)
	assert.Equal(t, "busybox", run.Image)
	assert.Equal(t, "task", run.TaskType)
	assert.Equal(t, testCluster, run.ClusterName)
	assert.Equal(t, "ada", run.User)
	assert.Equal(t, "Tier4", run.Tier, "the default tier")
	assert.Equal(t, "amd64", *run.Arch)
	assert.Nil(t, run.ServiceAccount)
	assert.True(t, run.RequiresDocker)
	assert.EqualValues(t, 2048, *run.Memory, "the request's")
	assert.EqualValues(t, 2048, *run.RequestedMemory)
	assert.Nil(t, run.CPU, "absent when not given")
	assert.EqualValues(t, 77, *run.EphemeralStorage)
	assert.Nil(t, run.StatusReason)
	assert.Equal(t, state.EnvList{
		{Name: "FLOTILLA_SERVER_MODE", Value: "prod"}, {Name: "FLOTILLA_RUN_ID", Value: run.RunID},
		{Name: "AWS_ROLE_SESSION_NAME", Value: run.RunID}, {Name: "FLOTILLA_RUN_OWNER_ID", Value: "ada"},
		{Name: "A", Value: "1"}, {Name: "B", Value: "2"},
	}, run.Env, "ours first, then the request's in their order; the definition's are not copied")
	assert.Equal(t, 1, b.waker.woken())
	assert.Contains(t, b.log.String(), `"event":"FlotillaSubmitTask","who":"ada"`)

	stored, err := b.executions.Get(t.Context(), run.RunID)
	require.NoError(t, err)
	assert.Equal(t, run.Env, stored.Env)
	assert.Equal(t, run.CommandHash, stored.CommandHash)
}

func TestIdempotenceKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first, second := b.definition(t, nil), b.definition(t, nil)
	key := state.ExecutionRequestCommon{IdempotenceKey: new("once")}
	run := b.run(t, first, key)
	again, err := b.executions.CreateFromDefinition(t.Context(), DefinitionRef{Alias: second.Alias}, request(key))
	require.NoError(t, err)
	assert.False(t, again.New)
	assert.Equal(t, run.RunID, again.Run.RunID, "whatever its definition")
	assert.Equal(t, 1, b.waker.woken())

	empty := state.ExecutionRequestCommon{IdempotenceKey: new("")}
	assert.NotEqual(t, b.run(t, first, empty).RunID, b.run(t, first, empty).RunID)
}

func TestCreateOfMissingExecutables(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var missing state.MissingResource
	_, err := b.executions.CreateFromDefinition(t.Context(), DefinitionRef{ID: "none"}, request(state.ExecutionRequestCommon{}))
	require.ErrorAs(t, err, &missing)
	_, err = b.executions.CreateFromDefinition(t.Context(), DefinitionRef{Alias: "none"}, request(state.ExecutionRequestCommon{}))
	require.ErrorAs(t, err, &missing)
	_, err = b.executions.ListForExecutable(t.Context(), "none", state.ListOptions{Limit: 1})
	require.ErrorAs(t, err, &missing)
	_, err = b.executions.Get(t.Context(), "none")
	require.ErrorAs(t, err, &missing)
	require.ErrorAs(t, b.executions.Stop(t.Context(), "none", ""), &missing)
	_, err = b.executions.Events(t.Context(), "none")
	require.ErrorAs(t, err, &missing)
	_, err = b.executions.Manifest(t.Context(), "none")
	require.ErrorAs(t, err, &missing)
	require.ErrorAs(t, b.executions.Report(t.Context(), "none", state.SelfReport{Status: state.StatusRunning}), &missing)
}

func TestAPointerToADefinitionIsADefinition(t *testing.T) {
	t.Parallel()
	definition := &state.Definition{DefinitionID: "d", Alias: "a", GroupName: "g"}
	run, err := newBench(t).executions.constructBaseRunFromExecutable(t.Context(), definition, request(state.ExecutionRequestCommon{}))
	require.NoError(t, err)
	assert.Equal(t, "a", run.Alias)
	assert.Equal(t, "g", run.GroupName)
}
