//go:build kube

package e2e

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

// outage is for how long the API server is away.
const outage = 30 * time.Second

// TestKubeAPIServerAway takes the API server away from a server while runs are queued, wait, run, end and are stopped.
func TestKubeAPIServerAway(t *testing.T) {
	for name, away := range map[string]struct{ begin, end func(*relay) }{
		"its process is gone": {(*relay).cut, (*relay).restore},
		"it hangs":            {(*relay).freeze, (*relay).thaw},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newKubeSite(t)
			server := s.serve("a")
			definition := s.define(server, "true")
			launch := func(command string) string { return s.run(server, definition, object{"command": command}) }
			codes := map[string]int64{}
			before := launch(hello + "; exit 1")
			codes[before] = 1
			s.awaitStatus(before, state.StatusStopped)
			meanwhile, longer, stopped := launch("sleep 15; exit 2"), launch("sleep 45; exit 3"), launch("sleep 1000")
			codes[meanwhile], codes[longer], codes[stopped] = 2, 3, 1
			for _, id := range []string{meanwhile, longer, stopped} {
				s.awaitStatus(id, state.StatusRunning)
			}

			away.begin(s.api)
			began := time.Now()
			queued, queuedToo := launch("exit 4"), launch("exit 5")
			codes[queued], codes[queuedToo] = 4, 5
			server.mustCall(http.MethodDelete, "/task/"+definition+"/history/"+stopped, nil, nil)
			s.awaitStatus(stopped, state.StatusStopped)
			s.await("a run ended unobserved", func() bool { return !s.seen.endedAt(meanwhile).IsZero() })
			pass(t.Context(), outage-time.Since(began))
			assertNothingInvented(s, meanwhile, longer, queued, queuedToo)
			away.end(s.api)

			for _, r := range s.awaitRuns(len(codes), string(state.StatusStopped), kubePatience) {
				assert.Equal(t, codes[r.id], r.code.Int64, "%v", r)
				assert.True(t, r.code.Valid, "%v", r)
				assert.LessOrEqual(t, r.attempt.Int64, int64(1), "%v", r)
			}
			assert.Contains(t, s.logOf(server, before), "hello from the run")
			s.awaitNoPods()
			s.seen.onceEach(t, before, meanwhile, longer, stopped, queued, queuedToo)
		})
	}
}

// assertNothingInvented checks that runs of which nothing can be known have not ended.
func assertNothingInvented(s *kubeSite, ids ...string) {
	s.t.Helper()
	all, err := s.rows(s.t.Context())
	require.NoError(s.t, err)
	for _, r := range all {
		for _, id := range ids {
			if r.id == id {
				assert.NotEqual(s.t, string(state.StatusStopped), r.status, "%v", r)
				assert.NotEqual(s.t, string(state.StatusNeedsRetry), r.status, "%v", r)
			}
		}
	}
}

// pass lets time pass.
func pass(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
