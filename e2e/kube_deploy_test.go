//go:build kube

package e2e

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	authorizationv1 "k8s.io/api/authorization/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/clients/kube"
	"github.com/stitchfix/flotilla-os/clients/kube/kubetest"
	"github.com/stitchfix/flotilla-os/config"
)

// Names of deploy/.
const (
	deployedNamespace = "flotilla"
	deployedAccount   = "flotilla"
	deployedJobs      = "flotilla-jobs"
)

func kubectl(t *testing.T, args ...string) {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), "kubectl", args...).CombinedOutput()
	require.NoError(t, err, "kubectl %v\n%s", args, output)
}

// TestDeploy applies deploy/cluster, which stays in the cluster, and lets the API server check deploy/base.
func TestDeploy(t *testing.T) {
	kubetest.Kubeconfig(t)
	kubectl(t, "apply", "-k", root+"/deploy/cluster")
	kubectl(t, "apply", "--dry-run=server", "-k", root+"/deploy/base")
	t.Run("the account has the rights that it needs and no others", rightsOfTheAccount)
	t.Run("a cluster is added by a kubeconfig of the account", addCluster)
}

func rightsOfTheAccount(t *testing.T) {
	rights := kubetest.Whole(t).AuthorizationV1()
	may := func(namespace, group, resource, subresource, verb string) bool {
		review, err := rights.SubjectAccessReviews().Create(t.Context(),
			&authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
				User: "system:serviceaccount:" + deployedNamespace + ":" + deployedAccount,
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Namespace: namespace, Group: group, Resource: resource, Subresource: subresource, Verb: verb,
				},
			}}, metav1.CreateOptions{})
		require.NoError(t, err)
		return review.Status.Allowed
	}
	for _, verb := range []string{"create", "get", "list", "watch", "patch", "delete"} {
		assert.True(t, may(deployedJobs, "batch", "jobs", "", verb), "%s jobs", verb)
		assert.False(t, may("default", "batch", "jobs", "", verb), "%s jobs elsewhere", verb)
		assert.False(t, may("", "batch", "jobs", "", verb), "%s jobs anywhere", verb)
		assert.False(t, may(deployedJobs, "", "secrets", "", verb), "%s secrets", verb)
		assert.False(t, may("", "", "nodes", "", verb), "%s nodes", verb)
		assert.False(t, may(deployedNamespace, "", "pods", "", verb), "%s the server's pods", verb)
	}
	for _, verb := range []string{"get", "list", "watch", "delete"} {
		assert.True(t, may(deployedJobs, "", "pods", "", verb), "%s pods", verb)
	}
	assert.True(t, may(deployedJobs, "", "pods", "log", "get"), "read logs")
	assert.True(t, may(deployedJobs, "", "configmaps", "", "create"), "register teams")
	assert.True(t, may(deployedJobs, "metrics.k8s.io", "pods", "", "list"), "read usage")
	assert.False(t, may(deployedJobs, "", "pods", "", "create"), "create pods")
	assert.False(t, may(deployedJobs, "", "pods", "exec", "create"), "enter pods")
	assert.False(t, may(deployedJobs, "", "configmaps", "", "get"), "read ConfigMaps")
	assert.False(t, may(deployedJobs, "batch", "jobs", "", "deletecollection"), "delete all jobs")
}

// addCluster follows the steps of docs/kubernetes.md.
func addCluster(t *testing.T) {
	admin := kubetest.Open(t)
	token := deployedToken(t, admin)
	server := clusterOfKubeconfig(t)
	folder := t.TempDir()
	file := filepath.Join(folder, "new")
	ca := filepath.Join(folder, "ca.crt")
	require.NoError(t, os.WriteFile(ca, server.CertificateAuthorityData, 0o600))
	kubectl(t, "config", "--kubeconfig", file, "set-cluster", "new", "--server", server.Server, "--certificate-authority", ca, "--embed-certs")
	kubectl(t, "config", "--kubeconfig", file, "set-credentials", "flotilla", "--token", token)
	kubectl(t, "config", "--kubeconfig", file, "set-context", "new", "--cluster", "new", "--user", "flotilla")
	kubectl(t, "config", "--kubeconfig", file, "use-context", "new")

	connector, err := kube.NewConnector(kube.ConnectorConfig{
		EKS: config.EKS{KubeconfigBasepath: folder}, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	added, err := connector.Open("new")
	require.NoError(t, err)
	defer added.Close()
	_, err = added.Client.BatchV1().Jobs(deployedJobs).Create(t.Context(), smallJob(), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	require.NoError(t, err)
	_, err = added.Client.CoreV1().Pods(deployedJobs).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	_, err = added.Client.CoreV1().Pods(deployedNamespace).List(t.Context(), metav1.ListOptions{})
	assert.True(t, apierrors.IsForbidden(err), "%v", err)
}

// deployedToken creates a token without expiry of the deployed account and waits for it.
func deployedToken(t *testing.T, admin *kube.Cluster) string {
	t.Helper()
	secrets := admin.Client.CoreV1().Secrets(deployedNamespace)
	made, err := secrets.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: "test-token-", Annotations: map[string]string{corev1.ServiceAccountNameKey: deployedAccount},
		},
		Type: corev1.SecretTypeServiceAccountToken,
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	name := made.Name
	t.Cleanup(func() { kubectlCleanup(t, "-n", deployedNamespace, "delete", "secret", name) })
	require.Eventually(t, func() bool {
		made, err = secrets.Get(t.Context(), name, metav1.GetOptions{})
		return err == nil && len(made.Data[corev1.ServiceAccountTokenKey]) > 0
	}, patience, poll)
	return string(made.Data[corev1.ServiceAccountTokenKey])
}

// kubectlCleanup runs kubectl after the end of the test's context.
func kubectlCleanup(t *testing.T, args ...string) {
	if output, err := exec.Command("kubectl", args...).CombinedOutput(); err != nil {
		t.Errorf("kubectl %v: %v\n%s", args, err, output)
	}
}

func smallJob() *batchv1.Job {
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"},
		Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Containers:    []corev1.Container{{Name: "c", Image: "i"}},
		}}},
	}
}
