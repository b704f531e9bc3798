// Package worker moves runs along: the submit worker claims queued runs and
// hands them to their cluster, the status worker follows the clusters and
// records what happens there, the retry worker queues again what a cluster
// failed. The Supervisor runs them by the counts in the table worker.
//
// What a worker decides is when to ask and whom; which moves of a run are
// legal is decided by state's guards, what a run gets by execution/adapter,
// and how a cluster is spoken to by its engine. docs/crash-points.md says what
// each of them finds after a crash.
package worker
