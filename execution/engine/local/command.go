package local

import (
	"os"
	"strings"
)

// attemptVariable marks every process of an attempt, so that those left behind by a dead shim can be found.
const attemptVariable = "FLOTILLA_ATTEMPT_FOLDER"

// passedOn are the variables of the server that a run sees. The rest stays private: it holds passwords.
var passedOn = []string{"PATH", "LANG", "TZ", "TMPDIR"}

// environment puts a run's variables (NAME=value) over what every run finds set: what a login on this machine would
// have, with the attempt's work folder as home. The marker of the attempt is ours and wins.
func (f Folder) environment(run []string) []string {
	taken := map[string]bool{attemptVariable: true}
	entries := []string{attemptVariable + "=" + string(f)}
	for _, entry := range run {
		name, _, _ := strings.Cut(entry, "=")
		if name != attemptVariable {
			taken[name] = true
			entries = append(entries, entry)
		}
	}
	if !taken["HOME"] {
		entries = append(entries, "HOME="+f.path(workFolder))
	}
	for _, name := range passedOn {
		if value, ok := os.LookupEnv(name); ok && !taken[name] {
			entries = append(entries, name+"="+value)
		}
	}
	return entries
}
