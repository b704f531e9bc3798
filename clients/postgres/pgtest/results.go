package pgtest

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// resultsVariable is the environment variable that names a file to append results to. `make bench` prints it.
const resultsVariable = "FLOTILLA_BENCH_RESULTS"

// Result is one line of the table that a benchmark's reader wants: what was measured, what it should be, and what the
// same machine needed at the same time for something to compare it with.
type Result struct {
	What, Measured, Goal, Reference string
	// Missed says that the goal was not reached.
	Missed bool
}

// Report logs the result and appends it to the table of results where there is one. It does not fail the benchmark:
// timings depend on what else the machine does.
func (r Result) Report(b *testing.B) {
	b.Helper()
	verdict := "reached"
	switch {
	case r.Goal == "":
		verdict = ""
	case r.Missed:
		verdict = "MISSED"
	}
	path := os.Getenv(resultsVariable)
	if path == "" {
		b.Logf("%s: %s (goal %s %s; reference: %s)", r.What, r.Measured, r.Goal, verdict, r.Reference)
		return
	}
	line := strings.Join([]string{r.What, r.Measured, r.Goal, verdict, r.Reference}, "\t") + "\n"
	if err := appendTo(path, line); err != nil {
		b.Fatalf("pgtest: %s: %v", resultsVariable, err)
	}
}

func appendTo(path, line string) error {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // A table for everybody to read.
	if err != nil {
		return err
	}
	if _, err := fmt.Fprint(file, line); err != nil {
		return fmt.Errorf("%w, and closing: %w", err, file.Close())
	}
	return file.Close()
}
