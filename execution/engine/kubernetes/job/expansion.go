package job

import (
	"strings"

	"github.com/stitchfix/flotilla-os/state"
)

// verbatim writes text so that the container gets it as it is. Kubernetes replaces $(NAME) in commands and in values
// of the environment by that variable where it is known, and $$ by $
// (https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/), none of which
// the user's shell asked for: "echo $$" must print a process id. Most text passes unharmed and stays as it is; in the
// rest every $ is doubled.
func verbatim(text string, known map[string]bool) string {
	if !wouldExpand(text, known) {
		return text
	}
	return strings.ReplaceAll(text, "$", "$$")
}

// wouldExpand reads text as Kubernetes does: a $( reaches to the next ), and what is between is not looked into.
func wouldExpand(text string, known map[string]bool) bool {
	for i := 0; i+1 < len(text); i++ {
		if text[i] != '$' {
			continue
		}
		switch text[i+1] {
		case '$':
			return true
		case '(':
			name, _, closed := strings.Cut(text[i+2:], ")")
			if !closed {
				continue
			}
			if known[name] || nodeVariable(name) {
				return true
			}
			i += len("$(") + len(name)
		}
	}
	return false
}

// nodeVariable is whether the node may add a variable of that name: it does for each service of the namespace, in
// capitals.
func nodeVariable(name string) bool {
	if name == "" {
		return false
	}
	return !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_'
	})
}

func namesOf(env state.EnvList) map[string]bool {
	known := make(map[string]bool, len(env))
	for _, v := range env {
		known[v.Name] = true
	}
	return known
}
