package main

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/stitchfix/flotilla-os/config"
)

// TestDeployedSettings checks that the ConfigMap of deploy/ holds only keys of the configuration and that they are valid.
func TestDeployedSettings(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("deploy/base/configmap.yaml")
	require.NoError(t, err)
	var settings corev1.ConfigMap
	require.NoError(t, yaml.UnmarshalStrict(text, &settings))
	known := map[string]bool{}
	for _, key := range config.Keys() {
		known[config.EnvName(key)] = true
	}
	environ := []string{"DATABASE_URL=postgres://flotilla@localhost/flotilla"}
	for name, value := range settings.Data {
		assert.True(t, known[name], "%s is not a key of the configuration", name)
		environ = append(environ, name+"="+value)
	}
	cfg, warnings, err := config.Load("conf", environ)
	require.NoError(t, err)
	assert.Empty(t, warnings)
	assert.Contains(t, cfg.EKS.Clusters, cfg.EKS.ClusterDefault)
	assert.Equal(t, cfg.EKS.ClusterDefault, cfg.EKS.InClusterName)
}
