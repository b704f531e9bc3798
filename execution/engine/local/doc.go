// Package local executes runs as processes of this machine, for development and for small installations without a
// cluster: the engine of clusters whose driver is "local".
//
// What lives here: the run folder and its files, the shim that executes one attempt and outlives the server, the memory
// and CPU limits (cgroup v2, cgroup v1, or a watchdog), admission by capacity, and the engine that ties them to the runs.
// What does not: sizes and ARA (execution/adapter), statuses and their guards (state).
//
// The contract is architecture.md "Local driver"; docs/crash-points.md says what a restart finds after each step.
package local
