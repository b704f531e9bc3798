package job

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

func buildJob(t *testing.T, change func(in *Input)) *batchv1.Job {
	t.Helper()
	in := plainInput()
	if change != nil {
		change(&in)
	}
	job, err := Build(in)
	require.NoError(t, err)
	return job
}

func manifest(t *testing.T, job *batchv1.Job) string {
	t.Helper()
	text, err := ManifestYAML(job)
	require.NoError(t, err)
	return string(text)
}

func TestBuild(t *testing.T) {
	t.Parallel()
	for name, tc := range jobCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := buildJob(t, tc.change)
			tc.check(t, job)
			assert.Equal(t, manifest(t, job), manifest(t, buildJob(t, tc.change)), "the same run makes the same Job")
		})
	}
}

func TestBuildRejects(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(in *Input)
		reason string
	}{
		"docker where it is not allowed": {
			func(in *Input) { in.Run.RequiresDocker = true }, "eks_allow_docker_socket"},
		"a port that would be another one in 16 bits": {
			func(in *Input) { in.Executable = state.Definition{Ports: []int64{65536 + 80}} }, "port 65616"},
		"port 0": {
			func(in *Input) { in.Executable = state.Definition{Ports: []int64{0}} }, "port 0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := plainInput()
			tc.change(&in)
			_, err := Build(in)
			var rejected engine.Rejected
			require.ErrorAs(t, err, &rejected)
			assert.Contains(t, rejected.Reason, tc.reason)
		})
	}
}

func TestAttempt(t *testing.T) {
	t.Parallel()
	for attempt := int64(1); attempt < 12; attempt++ {
		run := state.Run{RunID: testRunID, AttemptCount: &attempt}
		assert.Equal(t, attempt, Attempt(Name(run), testRunID))
	}
	for _, name := range []string{"", "x", testRunID + "-", testRunID + "-0", testRunID + "-1", testRunID + "-02", testRunID + "-x", testRunID + "3"} {
		assert.EqualValues(t, 0, Attempt(name, testRunID), name)
	}
}

func TestTeamConfigMap(t *testing.T) {
	t.Parallel()
	team := Team(state.Run{Labels: state.Labels{"team": "Data_Science"}}, 0)
	registered := TeamConfigMap(team, "jobs")
	assert.Equal(t, "flotilla-team-data-science", registered.Name)
	assert.Equal(t, "jobs", registered.Namespace)
	assert.Equal(t, map[string]string{"team": "data-science"}, registered.Data)
	assert.Equal(t, map[string]string{
		"app.kubernetes.io/managed-by": "flotilla", "flotilla.stitchfix.com/team-registry": "true",
	}, registered.Labels)
}

func TestResourcesOf(t *testing.T) {
	t.Parallel()
	for name, given := range map[string]adapter.Resources{
		"small": {Size: state.Size{Memory: 512, CPU: 250}, Limit: state.Size{Memory: 512, CPU: 250}},
		"large": {Size: state.Size{Memory: 350_000, CPU: 60_000}, Limit: state.Size{Memory: 360_001, CPU: 60_250}},
		"GPUs":  {Size: state.Size{Memory: 1000, CPU: 1000}, Limit: state.Size{Memory: 1000, CPU: 2000}, GPU: 8},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ResourcesOf(buildJob(t, func(in *Input) { in.Resources = given }))
			require.NoError(t, err)
			assert.Equal(t, given, got)
		})
	}
	_, err := ResourcesOf(&batchv1.Job{})
	require.ErrorIs(t, err, ErrNotOurs)
	bare := buildJob(t, nil)
	bare.Spec.Template.Spec.Containers[0].Resources.Limits = nil
	_, err = ResourcesOf(bare)
	require.ErrorIs(t, err, ErrNotOurs)
}

func TestManifestYAML(t *testing.T) {
	t.Parallel()
	job := buildJob(t, func(in *Input) {
		in.Run.Env = state.EnvList{{Name: "A", Value: "x"}}
		in.Resources.GPU = 1
	})
	job.ResourceVersion, job.UID, job.Status.Active = "7", "abc", 1
	text := manifest(t, job)
	for _, server := range []string{"status", "resourceVersion", "uid", "creationTimestamp"} {
		assert.NotContains(t, text, server)
	}
	var read batchv1.Job
	require.NoError(t, yaml.UnmarshalStrict([]byte(text), &read))
	assert.Equal(t, "Job", read.Kind)
	assert.Equal(t, job.Name, read.Name)
	assert.Equal(t, text, manifest(t, &read))
}

func FuzzSanitizeLabel(f *testing.F) {
	for _, text := range []string{"", " a ", "_a_", "A B/c", "é", "-.-", "0.", "a\x00", "x-" + testRunID + testRunID} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		assert.Empty(t, validation.IsValidLabelValue(SanitizeLabel(text)))
		assert.Equal(t, SanitizeLabel(text), SanitizeLabel(SanitizeLabel(text)))
		if team := dnsLabel(text); team != "" {
			assert.Empty(t, validation.IsDNS1123Label(team))
		}
	})
}
