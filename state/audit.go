package state

// EventTaskStatus is the event of the audit line of a run's change of status.
// Existing log searches look for this name.
const EventTaskStatus = "FlotillaTaskStatus"

// Auditor is who made an audited change. Who is the email, else the token's
// name, else the owner that the request names.
type Auditor struct{ Who, Token, Email string }

// Program is the Auditor of what Flotilla does by itself, such as recording
// what a cluster reports.
var Program = Auditor{Who: "flotilla"}

// AuditLine returns the attributes that begin every audit line: the event, who
// made the change, and the owner of what was changed.
func AuditLine(event string, by Auditor, owner string) []any {
	return []any{"event", event, "who", by.Who, "token", by.Token, "email", by.Email, "owner", owner}
}

// AuditStatus returns all attributes of the audit line of a run's change of
// status, for slog. It is the same line whoever makes the change. exit_code and
// exit_reason are left out while they are unknown.
func AuditStatus(by Auditor, run Run, to Status, u RunUpdate) []any {
	line := append(AuditLine(EventTaskStatus, by, run.User),
		"run_id", run.RunID, "definition_id", run.DefinitionID, "alias", run.Alias, "cluster", run.ClusterName,
		"engine", run.Engine, "status", to, "attempt", run.Attempt())
	if u.ExitCode != nil {
		line = append(line, "exit_code", *u.ExitCode)
	}
	if u.ExitReason != nil {
		line = append(line, "exit_reason", *u.ExitReason)
	}
	return line
}
