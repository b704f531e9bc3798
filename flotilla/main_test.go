package flotilla_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Wrap(m)) }
