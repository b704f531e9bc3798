// Package kube connects to Kubernetes clusters: where the configuration of a cluster is found, and the clients made
// from it. What is done in a cluster is the engine's part (execution/engine/kubernetes) and not done here.
package kube
