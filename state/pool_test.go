package state_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

func TestAQueryEndsSoonAfterItsContextWhereTheDatabaseIsSilent(t *testing.T) {
	t.Parallel()
	direct, err := url.Parse(statetest.NewURL(t))
	require.NoError(t, err)
	proxy := newStallingProxy(t, direct.Host)
	through := *direct
	through.Host = proxy.listener.Addr().String()
	m := statetest.Open(t, through.String())
	_, err = m.ListClusters(t.Context())
	require.NoError(t, err)

	proxy.stalled.Store(true)
	for _, name := range []string{"an open session", "a new session"} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		begin := time.Now()
		_, err = m.ListClusters(ctx)
		took := time.Since(begin)
		cancel()
		var unavailable state.Unavailable
		require.ErrorAs(t, err, &unavailable, name)
		assert.Less(t, took, 4*time.Second, name)
	}

	proxy.stalled.Store(false)
	require.Eventually(t, func() bool {
		_, err := m.ListClusters(t.Context())
		return err == nil
	}, 20*time.Second, 50*time.Millisecond)
}
