// Package state holds what Flotilla remembers: the domain types (definitions,
// templates, runs, clusters, workers) and the Manager that keeps them in
// Postgres.
//
// It decides which changes of a run are legal (status.go) and makes each of
// them one guarded UPDATE. It does not decide what to run, where, or with
// which size: that is services and execution.
package state
