package local

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the test binary be the shim, as the program is, so that the tests run real shims.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ShimCommand {
		os.Exit(RunShim(os.Args[2:])) //nolint:forbidigo // here the test binary is the program
	}
	goleak.VerifyTestMain(m)
}
