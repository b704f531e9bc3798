// Package e2e holds the tests and benchmarks of the whole program: they build flotilla-os, start it as its users do, talk
// to it by HTTP, and kill it. It has no code but tests. Files whose names begin with kube_ need a Kubernetes cluster and
// stand behind the build tag "kube".
package e2e
