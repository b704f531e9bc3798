// Package fault lets tests kill the program at named points. It stands below every other package so that any of them
// can name a point. In the program that people get, built without the tag faultpoints, Point does nothing.
package fault

// EnvVar names the point at which a program built with the tag faultpoints kills itself.
const EnvVar = "FLOTILLA_FAULT_POINT"

// Name is a crash point: a row of docs/crash-points.md, which says what is true there and what happens next.
type Name string

// The points of the server, in the order of a run's life.
const (
	InsertCommitted      Name = "insert_committed"
	WakeUpNotSent        Name = "wake_up_not_sent"
	ClaimCommitted       Name = "claim_committed"
	ExecutePrepared      Name = "execute_prepared"
	PendingCommitted     Name = "pending_committed"
	StartIntentCommitted Name = "start_intent_committed"
	ProcessStarted       Name = "process_started"
	RunningCommitted     Name = "running_committed"
	ExitSeen             Name = "exit_seen"
	StoppedCommitted     Name = "stopped_committed"
	NeedsRetryCommitted  Name = "needs_retry_committed"
	RetryRequeued        Name = "retry_requeued"
	Deferred             Name = "deferred"
	StopCommitted        Name = "stop_committed"
	DeadlineCommitted    Name = "deadline_committed"
)

// JobCreated is the point of the Kubernetes engine: the Job exists, the run's acceptance is not committed
// (docs/kubernetes-status.md). The tests of the other points have no cluster, so that Names does not list it.
const JobCreated Name = "job_created"

// The points of the shim that executes a run of a local cluster.
const (
	ShimLocked          Name = "shim_locked"
	ShimStartedRecorded Name = "shim_started_recorded"
	ShimCommandStarted  Name = "shim_command_started"
	ShimExitWritten     Name = "shim_exit_written"
)

// Names lists every point.
func Names() []Name {
	return []Name{
		InsertCommitted, WakeUpNotSent, ClaimCommitted, ExecutePrepared, PendingCommitted, StartIntentCommitted,
		ProcessStarted, RunningCommitted, ExitSeen, StoppedCommitted, NeedsRetryCommitted, RetryRequeued, Deferred,
		StopCommitted, DeadlineCommitted, ShimLocked, ShimStartedRecorded, ShimCommandStarted, ShimExitWritten,
	}
}
