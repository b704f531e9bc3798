package state_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Wrap(m)) }

func TestCheckAcceptsAMigratedDatabase(t *testing.T) {
	t.Parallel()
	m, _ := statetest.NewManager(t)
	require.NoError(t, m.Check(t.Context()))
	require.NoError(t, m.Check(t.Context()))
}
