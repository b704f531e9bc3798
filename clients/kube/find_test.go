package kube

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/state"
)

// kubeconfig is a file with one context per name, each of a cluster at https://<name>, and what else a user has.
func kubeconfig(current, user string, contexts ...string) string {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: Config\ncurrent-context: '" + current + "'\nclusters:\n")
	for _, name := range contexts {
		b.WriteString("- {name: " + name + ", cluster: {server: 'https://" + name + "'}}\n")
	}
	b.WriteString("contexts:\n")
	for _, name := range contexts {
		b.WriteString("- {name: " + name + ", context: {cluster: " + name + ", user: u}}\n")
	}
	b.WriteString("users:\n- name: u\n  user: {" + user + "}\n")
	return b.String()
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func newConnector(t *testing.T, eks config.EKS) *Connector {
	t.Helper()
	c, err := NewConnector(ConnectorConfig{
		EKS: eks, Logger: slog.New(slog.DiscardHandler),
		InCluster: func() (*rest.Config, error) { return &rest.Config{Host: "https://in-cluster"}, nil },
	})
	require.NoError(t, err)
	return c
}

func TestOrder(t *testing.T) {
	t.Parallel()
	const cluster = "prod"
	for name, tc := range map[string]struct {
		file, contexts string // the file of that name in the folder, and $KUBECONFIG
		inCluster      string
		host           string
	}{
		"the file comes first": {
			kubeconfig("a", "token: t", "a", "prod"), kubeconfig("prod", "token: t", "prod"), cluster, "https://a"},
		"a context comes second": {
			"", kubeconfig("other", "token: t", "other", "prod"), cluster, "https://prod"},
		"in-cluster comes last": {
			"", kubeconfig("other", "token: t", "other"), cluster, "https://in-cluster"},
		"a file without a current context has the one of the name": {
			kubeconfig("", "token: t", "a", "prod"), "", "", "https://prod"},
		"a file without a current context has the only one": {
			kubeconfig("", "token: t", "a"), "", "", "https://a"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if tc.file != "" {
				write(t, dir, "folder/"+cluster, tc.file)
			}
			several := filepath.Join(dir, "missing") + string(filepath.ListSeparator) + write(t, dir, "several", tc.contexts)
			c := newConnector(t, config.EKS{
				KubeconfigBasepath: filepath.Join(dir, "folder"), Kubeconfig: several, InClusterName: tc.inCluster,
			})
			f, err := c.find(cluster)
			require.NoError(t, err)
			assert.Equal(t, tc.host, f.rest.Host)
			assert.NotEmpty(t, f.source)
		})
	}
}

func TestNoConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "folder/secret", kubeconfig("a", "token: t", "a"))
	eks := config.EKS{
		KubeconfigBasepath: filepath.Join(dir, "folder", "sub"), InClusterName: "other",
		Kubeconfig: write(t, dir, "config", kubeconfig("a", "token: t", "a")),
	}
	for _, cluster := range []string{"prod", "", "..", "../secret", "arn:aws:eks:us-east-1:1:cluster/x"} {
		_, err := newConnector(t, eks).Open(cluster)
		var none NoConfiguration
		require.ErrorAs(t, err, &none, cluster)
		assert.Equal(t, cluster, none.Cluster)
		assert.Contains(t, err.Error(), "$KUBECONFIG")
	}
	_, err := newConnector(t, config.EKS{}).Open("prod")
	assert.ErrorContains(t, err, "none of eks_kubeconfig_basepath")
}

func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ file, want string }{
		"no kubeconfig":                    {"{{", "file"},
		"no current context of several":    {kubeconfig("", "token: t", "a", "b"), "2 contexts"},
		"a current context that is not":    {kubeconfig("gone", "token: t", "a"), "gone"},
		"a certificate that is not there":  {kubeconfig("a", "client-certificate: gone.crt, client-key: gone.key", "a"), "gone.crt"},
		"a credential program without API": {kubeconfig("a", "exec: {command: aws}", "a"), "apiVersion"},
		"an empty file":                    {"", "0 contexts"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := write(t, dir, "prod", tc.file)
			_, err := newConnector(t, config.EKS{KubeconfigBasepath: dir, InClusterName: "prod"}).Open("prod")
			var bad BadConfiguration
			require.ErrorAs(t, err, &bad, "what is broken is not passed over")
			assert.Contains(t, bad.Source, file)
			assert.ErrorContains(t, err, tc.want)
		})
	}
	broken := newConnector(t, config.EKS{InClusterName: "prod"})
	broken.cfg.InCluster = func() (*rest.Config, error) { return nil, rest.ErrNotInCluster }
	_, err := broken.Open("prod")
	var bad BadConfiguration
	require.ErrorAs(t, err, &bad)
	assert.True(t, errors.Is(err, rest.ErrNotInCluster))
}

func TestTheCredentialProgramIdentifiesAWS(t *testing.T) {
	t.Parallel()
	const exec = "exec: {apiVersion: client.authentication.k8s.io/v1beta1, command: %, args: [eks, get-token]}"
	for name, tc := range map[string]struct {
		user string
		aws  bool
	}{
		"the AWS command line":      {strings.Replace(exec, "%", "aws", 1), true},
		"the same by its path":      {strings.Replace(exec, "%", "/usr/local/bin/aws", 1), true},
		"the authenticator":         {strings.Replace(exec, "%", "aws-iam-authenticator", 1), true},
		"another cloud's program":   {strings.Replace(exec, "%", "gke-gcloud-auth-plugin", 1), false},
		"a program with aws inside": {strings.Replace(exec, "%", "/opt/aws/login", 1), false},
		"a token":                   {"token: aws", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, dir, "prod", kubeconfig("a", tc.user, "a"))
			cluster, err := newConnector(t, config.EKS{KubeconfigBasepath: dir}).Open("prod")
			require.NoError(t, err)
			defer cluster.Close()
			assert.Equal(t, tc.aws, cluster.AWS)
			got := state.Cluster{}.EffectiveCapabilities(cluster.ImpliedCapabilities()...)
			assert.Equal(t, tc.aws, got.Has(state.CapabilityCapacityType))
			assert.Equal(t, tc.aws, got.Has(state.CapabilityArch))
		})
	}
}

func TestOutdated(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	folder, several := filepath.Join(dir, "folder"), write(t, dir, "several", kubeconfig("a", "token: t", "a", "prod"))
	c := newConnector(t, config.EKS{KubeconfigBasepath: folder, Kubeconfig: several})
	open := func() *Cluster {
		t.Helper()
		cluster, err := c.Open("prod")
		require.NoError(t, err)
		t.Cleanup(cluster.Close)
		return cluster
	}
	first := open()
	assert.False(t, first.Outdated())
	write(t, dir, "several", kubeconfig("prod", "token: t", "a", "prod", "b"))
	assert.False(t, first.Outdated(), "another context is another cluster's")
	write(t, dir, "several", kubeconfig("prod", "token: new", "prod"))
	assert.True(t, first.Outdated(), "the token changed")

	second := open()
	write(t, dir, "folder/prod", kubeconfig("a", "client-certificate: c, client-key: k", "a"))
	write(t, dir, "folder/c", "one")
	write(t, dir, "folder/k", "key")
	digest := func() string {
		t.Helper()
		now, err := c.find("prod")
		require.NoError(t, err)
		return now.digest
	}
	third := digest()
	assert.True(t, second.Outdated(), "the file comes first now")
	write(t, dir, "folder/c", "two")
	assert.NotEqual(t, third, digest(), "the certificate changed")

	require.NoError(t, os.RemoveAll(folder))
	assert.False(t, second.Outdated(), "the context is the first place again")
	require.NoError(t, os.Remove(several))
	assert.False(t, second.Outdated(), "a configuration that is gone counts as unchanged")
}
