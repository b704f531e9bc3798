// Package kubetest gives tests a real cluster, the one of $KUBECONFIG's current context. Tests that use it sit behind
// the build tag "kube" and fail without one.
package kubetest

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/stitchfix/flotilla-os/clients/kube"
	"github.com/stitchfix/flotilla-os/config"
)

// Timeout bounds one request to the cluster, and what is done after a test.
const Timeout = 30 * time.Second

// defaultImage has bash and coreutils; test clusters serve it.
const defaultImage = "127.0.0.1:5055/flotilla-test:latest"

// Image returns the image of test runs: $KUBE_TEST_IMAGE, which must have bash.
func Image() string { return cmp.Or(os.Getenv("KUBE_TEST_IMAGE"), defaultImage) }

// Kubeconfig returns $KUBECONFIG; the test fails if it is not set.
func Kubeconfig(t testing.TB) string {
	t.Helper()
	kubeconfig := os.Getenv("KUBECONFIG")
	require.NotEmpty(t, kubeconfig, "KUBECONFIG must name a cluster for these tests")
	return kubeconfig
}

// ContextName returns the name of $KUBECONFIG's current context, by which a Connector finds the cluster.
func ContextName(t testing.TB) string {
	t.Helper()
	rules := &clientcmd.ClientConfigLoadingRules{Precedence: filepath.SplitList(Kubeconfig(t))}
	loaded, err := rules.Load()
	require.NoError(t, err)
	require.NotEmpty(t, loaded.CurrentContext, "KUBECONFIG must have a current context")
	return loaded.CurrentContext
}

// Open connects to the cluster as the program does.
func Open(t testing.TB) *kube.Cluster {
	t.Helper()
	connector, err := kube.NewConnector(kube.ConnectorConfig{
		EKS: config.EKS{Kubeconfig: Kubeconfig(t)}, Logger: slog.New(slog.DiscardHandler), Version: "test",
	})
	require.NoError(t, err)
	cluster, err := connector.Open(ContextName(t))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	return cluster
}

// Whole returns a client of the cluster's whole API, for what the program itself never asks.
func Whole(t testing.TB) kubernetes.Interface {
	t.Helper()
	rules := &clientcmd.ClientConfigLoadingRules{Precedence: filepath.SplitList(Kubeconfig(t))}
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	require.NoError(t, err)
	cfg.QPS = -1 // no limit
	client, err := rest.HTTPClientFor(cfg)
	require.NoError(t, err)
	t.Cleanup(client.CloseIdleConnections)
	whole, err := kubernetes.NewForConfigAndClient(cfg, client)
	require.NoError(t, err)
	return whole
}

// Namespace creates a namespace for the test alone, in which pods can be created at once. It is deleted with its content
// when the test ends.
func Namespace(t testing.TB, cluster *kube.Cluster) string {
	t.Helper()
	namespaces := cluster.Client.CoreV1().Namespaces()
	made, err := namespaces.Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "flotilla-test-"},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Timeout)
		defer cancel()
		if err := namespaces.Delete(ctx, made.Name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("delete namespace %s: %v", made.Name, err)
		}
	})
	require.Eventually(t, func() bool {
		_, err := cluster.Client.CoreV1().ServiceAccounts(made.Name).Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil
	}, time.Minute, 20*time.Millisecond, "the namespace gets no service account")
	return made.Name
}
