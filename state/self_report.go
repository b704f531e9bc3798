package state

import "strings"

// A reasonRule gives a reason to a run whose exceptions hold one of the
// phrases, which are in lower case.
type reasonRule struct {
	reason  string
	phrases []string
}

// reasonRules are rest-api.md's, "Self-reported status"; the first that
// matches counts.
var reasonRules = []reasonRule{
	{"Connection error to downstream uri", []string{
		"timeout", "gatewayerror", "socketerror", " 500 ", " 502 ", " 503 ", " 504 ", "connectionerror"}},
	{"Python pip package installation error", []string{
		"could not find a version", "package not found", "modulenotfounderror", "no matching distribution found"}},
	{"Yum installation error", []string{"nothing to do"}},
	{"Git clone error", []string{
		"could not read from remote repository", "correct access rights", "repository not found"}},
	{"Data or argument error", []string{"404", "400", "keyerror", "column missing", "runtimeerror"}},
	{"Code or syntax error", []string{"syntaxerror", "typeerror"}},
}

// reasonUnknownException is the reason of exceptions that no rule knows.
const reasonUnknownException = "Runtime exception encountered"

// reason is the report's exit reason: the one given, else the one that its
// exceptions tell, else nil. None is invented.
func (s SelfReport) reason() *string {
	if s.ExitReason != nil && *s.ExitReason != "" {
		return s.ExitReason
	}
	if len(s.RunExceptions) == 0 {
		return nil
	}
	text := strings.ToLower(strings.Join(s.RunExceptions, "\n"))
	for _, rule := range reasonRules {
		for _, phrase := range rule.phrases {
			if strings.Contains(text, phrase) {
				return new(rule.reason)
			}
		}
	}
	return new(reasonUnknownException)
}
