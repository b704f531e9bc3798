// Package kubernetes is the engine of Kubernetes clusters: it makes the Jobs of runs, follows them and their pods by
// watching, keeps their logs, and ends them. What a Job looks like, and what a pod's state means for its run, are pure
// functions of package adapter; how a cluster is reached is package clients/kube's.
package kubernetes
