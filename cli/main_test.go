package cli_test

import (
	"testing"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
