package shim

// What only tests look at.

// HasPIDFD reports whether the process is watched by a pidfd and not by its lock.
func (p *Process) HasPIDFD() bool { return p.pidfd != nil }

// CloseSpareInput does what the system does for the server if that is killed.
func (l *Launcher) CloseSpareInput() error { return l.spare.input.Close() }

// Environment is folder.environment.
var Environment = Folder.environment

// AttemptVariable is the name of the attempt's marker.
const AttemptVariable = attemptVariable
