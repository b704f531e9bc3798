//go:build kube

package job

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/clients/kube/kubetest"
	"github.com/stitchfix/flotilla-os/state"
)

func dryRun() metav1.CreateOptions {
	// A field that the server does not know is an error: a rule that it ignores would not hold.
	return metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}
}

// TestEveryExampleIsAccepted sends each example to the API server, which validates it and stores nothing.
func TestEveryExampleIsAccepted(t *testing.T) {
	t.Parallel()
	cluster := kubetest.Open(t)
	for name, tc := range jobCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := buildJob(t, tc.change)
			answered, err := cluster.Client.BatchV1().Jobs(job.Namespace).Create(t.Context(), job, dryRun())
			require.NoError(t, err)
			want, err := ResourcesOf(job)
			require.NoError(t, err)
			got, err := ResourcesOf(answered)
			require.NoError(t, err)
			assert.Equal(t, want, got)
			assert.Equal(t, mainContainer(job).Command, mainContainer(answered).Command)
			assert.Equal(t, pod(job).Affinity, pod(answered).Affinity)
			assert.Subset(t, pod(answered).Tolerations, pod(job).Tolerations)
			for key, value := range job.Spec.Template.Labels {
				assert.Equal(t, value, answered.Spec.Template.Labels[key], key)
			}
			assert.Equal(t, job.Name, answered.Spec.Template.Labels[batchv1.JobNameLabel])
		})
	}
}

// TestEveryTeamIsAccepted sends ConfigMaps of teams.
func TestEveryTeamIsAccepted(t *testing.T) {
	t.Parallel()
	cluster := kubetest.Open(t)
	for _, text := range []string{"ml", "Data_Science & ML.", "0", "long name, " + testRunID + testRunID} {
		registered := TeamConfigMap(Team(state.Run{Labels: state.Labels{"team": text}}, 0), "default")
		_, err := cluster.Client.CoreV1().ConfigMaps("default").Create(t.Context(), registered, dryRun())
		assert.NoError(t, err, text)
	}
}

// TestInvalidRunsAreInvalidToTheAPIServer checks that the API server finds what Build leaves to it: with 422 and a
// message that names the fault.
func TestInvalidRunsAreInvalidToTheAPIServer(t *testing.T) {
	t.Parallel()
	cluster := kubetest.Open(t)
	for name, tc := range map[string]struct {
		change func(in *Input)
		says   string
	}{
		"the key of a label": {
			func(in *Input) { in.Run.Labels = state.Labels{"not a key": "x"} }, "not a key"},
		"no image":          {func(in *Input) { in.Run.Image = "" }, "image: Required value"},
		"a service account": {func(in *Input) { in.Run.ServiceAccount = new("Not A Name") }, "serviceAccountName"},
		"a limit below the request": {
			func(in *Input) { in.Resources.Limit.Memory = in.Resources.Memory - 1 }, "must be less than or equal to memory limit"},
		"a negative size": {func(in *Input) { in.Resources.CPU = -250 }, "must be greater than or equal to 0"},
		"a run's id":      {func(in *Input) { in.Run.RunID = "eks-Not_A_Name" }, "metadata.name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job := buildJob(t, tc.change)
			_, err := cluster.Client.BatchV1().Jobs(job.Namespace).Create(t.Context(), job, dryRun())
			require.True(t, apierrors.IsInvalid(err), "%v", err)
			assert.ErrorContains(t, err, tc.says)
		})
	}
}

// TestContainerGetsTextVerbatim runs a Job whose command and environment hold text that Kubernetes would replace.
func TestContainerGetsTextVerbatim(t *testing.T) {
	t.Parallel()
	cluster := kubetest.Open(t)
	job := buildJob(t, func(in *Input) {
		in.Settings.EKS.JobNamespace = kubetest.Namespace(t, cluster)
		in.Run.Env = state.EnvList{{Name: "A", Value: "a"}, {Name: "B", Value: "pa$$w$(A)rd$"}}
		in.Run.Command = new(`set +x; printf 'got %s\n' 'x$$y' '$(A)' '$(KUBERNETES_PORT)' '$(NONE$$)' "$B" "$(echo sub)" '$$$'`)
	})
	_, err := cluster.Client.BatchV1().Jobs(job.Namespace).Create(t.Context(), job, metav1.CreateOptions{})
	require.NoError(t, err)
	pods := cluster.Client.CoreV1().Pods(job.Namespace)
	var ended corev1.Pod
	require.Eventually(t, func() bool {
		list, err := pods.List(t.Context(), metav1.ListOptions{LabelSelector: LabelRunID + "=" + testRunID})
		if err != nil || len(list.Items) != 1 {
			return false
		}
		ended = list.Items[0]
		return ended.Status.Phase == corev1.PodSucceeded || ended.Status.Phase == corev1.PodFailed
	}, 2*time.Minute, 100*time.Millisecond)
	log, err := pods.GetLogs(ended.Name, &corev1.PodLogOptions{}).DoRaw(t.Context())
	require.NoError(t, err)
	const want = "got x$$y\ngot $(A)\ngot $(KUBERNETES_PORT)\ngot $(NONE$$)\ngot pa$$w$(A)rd$\ngot sub\ngot $$$\n"
	assert.Contains(t, string(log), want)
	assert.Equal(t, corev1.PodSucceeded, ended.Status.Phase)
}
