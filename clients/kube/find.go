package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// NoConfiguration reports that no configuration of a cluster was found. Another server may serve the cluster, or its
// kubeconfig may still be added.
type NoConfiguration struct {
	Cluster string
	// Looked describes the places that were searched.
	Looked []string
}

func (e NoConfiguration) Error() string {
	if len(e.Looked) == 0 {
		return fmt.Sprintf("There is no configuration for cluster %q: none of eks_kubeconfig_basepath, $KUBECONFIG and "+
			"eks_in_cluster_name is set.", e.Cluster)
	}
	return fmt.Sprintf("There is no configuration for cluster %q: looked for %s.", e.Cluster, strings.Join(e.Looked, ", "))
}

// BadConfiguration reports that a cluster's configuration was found and cannot be used.
type BadConfiguration struct {
	Cluster string
	// Source is where it was found.
	Source string
	Err    error
}

func (e BadConfiguration) Error() string {
	return fmt.Sprintf("The configuration of cluster %q in %s cannot be used: %v", e.Cluster, e.Source, e.Err)
}

// Unwrap returns the error in the configuration.
func (e BadConfiguration) Unwrap() error { return e.Err }

// found is a cluster's configuration, with everything that it refers to.
type found struct {
	source string
	rest   *rest.Config
	// digest changes with anything in the configuration, except tokens in files, which the client reads again when they
	// change.
	digest string
}

// find searches in the order of kubernetes.md, Clusters. The first place that has the cluster decides, even if what it
// holds is broken. The errors are NoConfiguration and BadConfiguration.
func (c *Connector) find(cluster string) (found, error) {
	var looked []string
	for _, look := range []func(cluster string) (where string, f *found, err error){
		c.inFolder, c.inContexts, c.inCluster,
	} {
		where, f, err := look(cluster)
		switch {
		case err != nil:
			return found{}, BadConfiguration{Cluster: cluster, Source: where, Err: err}
		case f != nil:
			f.source = where
			return *f, nil
		case where != "":
			looked = append(looked, where)
		}
	}
	return found{}, NoConfiguration{Cluster: cluster, Looked: looked}
}

// inFolder finds the file named like the cluster. A name that cannot be a file of the folder, such as one with a slash,
// has none.
func (c *Connector) inFolder(cluster string) (string, *found, error) {
	folder := c.cfg.EKS.KubeconfigBasepath
	if folder == "" || cluster != filepath.Base(cluster) || !filepath.IsLocal(cluster) {
		return "", nil, nil
	}
	file := filepath.Join(folder, cluster)
	where := "the file " + file
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return where, nil, nil
	}
	loaded, err := (&clientcmd.ClientConfigLoadingRules{ExplicitPath: file}).Load()
	if err != nil {
		return where, nil, err
	}
	if loaded.CurrentContext == "" {
		if loaded.CurrentContext, err = onlyContext(loaded, cluster); err != nil {
			return where, nil, err
		}
	}
	f, err := resolve(loaded)
	return where, f, err
}

// onlyContext returns the context of a file that names no current one: the one named like the cluster, or the only one.
func onlyContext(loaded *clientcmdapi.Config, cluster string) (string, error) {
	if loaded.Contexts[cluster] != nil {
		return cluster, nil
	}
	names := slices.Collect(maps.Keys(loaded.Contexts))
	if len(names) != 1 {
		return "", fmt.Errorf("it has %d contexts and names none as the current one", len(names))
	}
	return names[0], nil
}

// inContexts finds the context of $KUBECONFIG that is named like the cluster.
func (c *Connector) inContexts(cluster string) (string, *found, error) {
	if c.cfg.EKS.Kubeconfig == "" {
		return "", nil, nil
	}
	where := fmt.Sprintf("the context %s of $KUBECONFIG (%s)", cluster, c.cfg.EKS.Kubeconfig)
	rules := &clientcmd.ClientConfigLoadingRules{Precedence: filepath.SplitList(c.cfg.EKS.Kubeconfig)}
	loaded, err := rules.Load()
	if err != nil {
		return where, nil, err
	}
	if loaded.Contexts[cluster] == nil {
		return where, nil, nil
	}
	loaded.CurrentContext = cluster
	f, err := resolve(loaded)
	return where, f, err
}

// resolve returns the current context's client configuration. It reads certificates and keys, so that a missing file is
// an error with its name, and one that changes later changes the digest.
func resolve(loaded *clientcmdapi.Config) (*found, error) {
	if err := clientcmdapi.MinifyConfig(loaded); err != nil {
		return nil, err
	}
	if err := clientcmdapi.FlattenConfig(loaded); err != nil {
		return nil, err
	}
	for _, user := range loaded.AuthInfos {
		if user.Exec != nil {
			user.Exec.StdinUnavailable = true
			user.Exec.StdinUnavailableMessage = "a server cannot ask anybody"
		}
	}
	cfg, err := clientcmd.NewDefaultClientConfig(*loaded, nil).ClientConfig()
	if err != nil {
		return nil, err
	}
	text, err := clientcmd.Write(*loaded)
	if err != nil {
		return nil, err
	}
	return &found{rest: cfg, digest: digest(text)}, nil
}

// inCluster finds the cluster that this server itself runs in.
func (c *Connector) inCluster(cluster string) (string, *found, error) {
	if c.cfg.EKS.InClusterName == "" || c.cfg.EKS.InClusterName != cluster {
		return "", nil, nil
	}
	const where = "the pod that this server runs in"
	cfg, err := c.cfg.InCluster()
	if err != nil {
		return where, nil, err
	}
	ca, err := os.ReadFile(cfg.CAFile)
	if err != nil && cfg.CAFile != "" {
		return where, nil, err
	}
	text, err := json.Marshal([]string{cfg.Host, cfg.BearerTokenFile, string(ca)})
	if err != nil {
		return where, nil, err
	}
	return where, &found{rest: cfg, digest: digest(text)}, nil
}

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
