package state_test

import (
	"math/rand/v2"
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

// incompressible is a text of n characters that stays long in an index.
func incompressible(n int) string {
	random := rand.New(rand.NewPCG(1, 2))
	text := make([]byte, n)
	for i := range text {
		text[i] = byte('!' + random.IntN(90))
	}
	return string(text)
}
