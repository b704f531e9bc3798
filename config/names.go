package config

import (
	"regexp"
	"slices"
)

var (
	// variableName is what shells and Kubernetes both take as the name of an environment variable.
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	// namespaceName is a DNS label of RFC 1123, which every Kubernetes namespace is.
	namespaceName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// validateNames refuses names that every single run would fail for.
func (c *Config) validateNames() error {
	switch {
	case !variableName.MatchString(c.OwnerIDVar):
		return &ValueError{Key: "owner_id_var", Held: quote(c.OwnerIDVar),
			Allowed: "the name of an environment variable such as FLOTILLA_RUN_OWNER_ID"}
	case !namespaceName.MatchString(c.EKS.JobNamespace):
		return &ValueError{Key: "eks_job_namespace", Held: quote(c.EKS.JobNamespace),
			Allowed: "the name of a Kubernetes namespace: at most 63 small letters, digits and dashes between them"}
	case c.Local.Enabled && slices.Contains(c.EKS.Clusters, c.Local.ClusterName):
		return &ValueError{Key: "local.cluster_name", Held: quote(c.Local.ClusterName),
			Allowed: "a name that is not among eks_clusters"}
	}
	return nil
}
