package services

import "strings"

// reasonRule names what went wrong where an exception contains one of the
// marks, regardless of case.
type reasonRule struct {
	reason string
	marks  []string
}

// unknownException is the reason where no rule applies.
const unknownException = "Runtime exception encountered"

// reasonRules are tried in this order (rest-api.md, "Self-reported status");
// the marks are in lower case.
var reasonRules = []reasonRule{
	{"Connection error to downstream uri", []string{
		"timeout", "gatewayerror", "socketerror", " 500 ", " 502 ", " 503 ", " 504 ", "connectionerror",
	}},
	{"Python pip package installation error", []string{
		"could not find a version", "package not found", "modulenotfounderror", "no matching distribution found",
	}},
	{"Yum installation error", []string{"nothing to do"}},
	{"Git clone error", []string{
		"could not read from remote repository", "correct access rights", "repository not found",
	}},
	{"Data or argument error", []string{"404", "400", "keyerror", "column missing", "runtimeerror"}},
	{"Code or syntax error", []string{"syntaxerror", "typeerror"}},
}

// reasonOf derives an exit reason from the exceptions that a run reports: the
// first rule that any of them meets.
func reasonOf(exceptions []string) string {
	text := strings.ToLower(strings.Join(exceptions, "\n"))
	for _, rule := range reasonRules {
		for _, mark := range rule.marks {
			if strings.Contains(text, mark) {
				return rule.reason
			}
		}
	}
	return unknownException
}
