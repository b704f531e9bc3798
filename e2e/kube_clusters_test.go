//go:build kube

package e2e

import (
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

// takeOver is how soon after a server's death another one follows its clusters (kubernetes.md, Following).
const takeOver = 10 * time.Second

// TestKubeTwoServers kills, of two servers, first the one that follows the cluster and then the other: what happens in
// the cluster meanwhile is recorded by who is left.
func TestKubeTwoServers(t *testing.T) {
	t.Parallel()
	s := newKubeSite(t)
	first := s.serve("a")
	definition := s.define(first, "true")
	for round := range 2 {
		// The first server follows: its runs move before there is another one.
		run := s.run(first, definition, object{"command": "sleep 6; exit 7"})
		s.awaitStatus(run, state.StatusRunning)
		second := s.serve([]string{"b", "c"}[round])
		first.kill()
		killed := time.Now()
		s.awaitStatus(run, state.StatusStopped)
		recorded := time.Now()
		ended := s.seen.endedAt(run)
		require.False(t, ended.IsZero())
		from := killed
		if ended.After(killed) {
			from = ended
		}
		t.Logf("killed; its run ended %v later and was recorded %v later",
			ended.Sub(killed).Round(time.Millisecond), recorded.Sub(killed).Round(time.Millisecond))
		assert.Less(t, recorded.Sub(from), takeOver, "from the server's death, or the run's end where that was later")
		first = second
	}
	var ids []string
	for _, r := range s.awaitRuns(2, string(state.StatusStopped), kubePatience) {
		assert.Equal(t, int64(7), r.code.Int64)
		ids = append(ids, r.id)
	}
	s.seen.onceEach(t, ids...)
}

// TestKubeServersSubmitTogether has two servers submit to one cluster at once, and one of them die.
func TestKubeServersSubmitTogether(t *testing.T) {
	t.Parallel()
	const runs = 20
	s := newKubeSite(t)
	servers := []*server{s.serve("a"), s.serve("b")}
	definition := s.define(servers[0], "exit 3")
	for i := range runs {
		if i == runs*3/4 {
			servers[0].kill()
			servers[0] = servers[1]
		}
		s.run(servers[i%2], definition, nil)
	}
	var ids []string
	for _, r := range s.awaitRuns(runs, string(state.StatusStopped), kubePatience) {
		assert.Equal(t, int64(3), r.code.Int64)
		ids = append(ids, r.id)
	}
	s.seen.onceEach(t, ids...)
}

// TestKubeClusters runs two clusters, one of which is added while the server runs, beside one that is dead from the
// start. They are three ways to one API server, and to one namespace; the server cannot know that.
func TestKubeClusters(t *testing.T) {
	t.Parallel()
	const forDead = 40 // more than a worker hands over at a time
	s := newKubeSite(t, "EKS_CLUSTERS="+mainCluster+",dead")
	s.addKubeconfig("dead", "https://"+closedPort(t), s.token)
	server := s.serve("a")
	definition := s.define(server, "exit 6")
	runOn := func(cluster string) string { return s.run(server, definition, object{"cluster": cluster}) }

	var dead, others []string
	for range forDead {
		dead = append(dead, runOn("dead"))
	}
	others = append(others, runOn(mainCluster), runOn(mainCluster))
	for _, id := range others {
		s.awaitStatus(id, state.StatusStopped)
	}
	assert.Contains(t, s.awaitReason(dead[0]), "dead")

	server.mustCall(http.MethodPost, "/clusters", object{"name": "two", "region": "nowhere"}, nil)
	added := runOn("two")
	assert.Contains(t, s.awaitReason(added), "two")
	s.addKubeconfig("two", s.api.url(), s.token)
	s.awaitStatus(added, state.StatusStopped)
	others = append(others, added, runOn(mainCluster))

	s.addKubeconfig("dead", apiServerURL(t).String(), s.token) // it has risen
	all := s.awaitRuns(len(dead)+len(others), string(state.StatusStopped), 2*kubePatience)
	for _, r := range all {
		assert.Equal(t, int64(6), r.code.Int64, "%v", r)
	}
	s.seen.onceEach(t, append(dead, others...)...)
}

// awaitReason waits until a queued run says why it waits.
func (s *kubeSite) awaitReason(run string) string {
	s.t.Helper()
	var status, reason string
	s.await("a reason to wait", func() bool {
		err := s.db.QueryRowContext(s.t.Context(),
			`SELECT status, COALESCE(status_reason, '') FROM task WHERE run_id = $1`, run).Scan(&status, &reason)
		return err == nil && reason != ""
	})
	assert.Equal(s.t, string(state.StatusQueued), status)
	return reason
}

// closedPort is an address at which nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	return listener.Addr().String()
}
