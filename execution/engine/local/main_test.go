package local

import (
	"testing"

	"github.com/stitchfix/flotilla-os/execution/engine/local/shim/shimtest"
)

func TestMain(m *testing.M) { shimtest.Main(m) }
