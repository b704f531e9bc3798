package kube

import (
	"fmt"
	"strings"
)

// NoConfiguration says that there is nothing by which a cluster could be reached: it may be another server's to
// serve, or its kubeconfig is still to come.
type NoConfiguration struct {
	Cluster string
	// Looked are the places where one was looked for, in words.
	Looked []string
}

func (e NoConfiguration) Error() string {
	if len(e.Looked) == 0 {
		return fmt.Sprintf("There is no configuration for cluster %q: none of eks_kubeconfig_basepath, $KUBECONFIG and "+
			"eks_in_cluster_name is set.", e.Cluster)
	}
	return fmt.Sprintf("There is no configuration for cluster %q: looked for %s.", e.Cluster, strings.Join(e.Looked, ", "))
}

// BadConfiguration says that a cluster's configuration was found and cannot be used.
type BadConfiguration struct {
	Cluster string
	// Source is where it was found.
	Source string
	Err    error
}

func (e BadConfiguration) Error() string {
	return fmt.Sprintf("The configuration of cluster %q in %s cannot be used: %v", e.Cluster, e.Source, e.Err)
}

// Unwrap gives what is wrong with it.
func (e BadConfiguration) Unwrap() error { return e.Err }
