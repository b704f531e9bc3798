//go:build kube

package kube_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/clients/kube/kubetest"
)

// TestConnectsToACluster checks that a real API server accepts our content type and our credentials.
func TestConnectsToACluster(t *testing.T) {
	t.Parallel()
	cluster := kubetest.Open(t)
	namespace := kubetest.Namespace(t, cluster) // a write, in protobuf
	watch, err := cluster.Streams.CoreV1().Pods(namespace).Watch(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	watch.Stop()
	_, err = cluster.Metrics.MetricsV1beta1().PodMetricses(namespace).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
}
