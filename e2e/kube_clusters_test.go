//go:build kube

package e2e

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/state"
)

// TestKubeTwoServers kills the server that follows the cluster, twice. The server that is left records what happens in
// the cluster. The log of the test shows how soon; the goal is 10 s (kubernetes.md, Following).
func TestKubeTwoServers(t *testing.T) {
	t.Parallel()
	s := newKubeSite(t)
	first := s.serve("a")
	definition := first.define("true")
	for round := range 2 {
		// The first server follows the cluster because it is alone when the run starts.
		run := first.run(definition, object{"command": "sleep 6; exit 7"})
		first.awaitStatus(run, state.StatusRunning)
		second := s.serve([]string{"b", "c"}[round])
		first.kill()
		killed := time.Now()
		second.awaitStopped(run)
		recorded := time.Now()
		ended := s.seen.endedAt(run)
		require.False(t, ended.IsZero())
		t.Logf("killed; its run ended %v later and was recorded %v later",
			ended.Sub(killed).Round(time.Millisecond), recorded.Sub(killed).Round(time.Millisecond))
		first = second
	}
	var ids []string
	for _, r := range s.awaitRuns(2, state.StatusStopped) {
		assert.Equal(t, int64(7), r.code.Int64)
		ids = append(ids, r.id)
	}
	s.seen.onceEach(t, ids...)
}

// TestKubeServersSubmitTogether lets two servers submit to one cluster at once, and kills one of them.
func TestKubeServersSubmitTogether(t *testing.T) {
	t.Parallel()
	const runs = 20
	s := newKubeSite(t)
	servers := []*server{s.serve("a"), s.serve("b")}
	definition := servers[0].define("exit 3")
	for i := range runs {
		if i == runs*3/4 {
			servers[0].kill()
			servers[0] = servers[1]
		}
		servers[i%2].run(definition)
	}
	var ids []string
	for _, r := range s.awaitRuns(runs, state.StatusStopped) {
		assert.Equal(t, int64(3), r.code.Int64)
		ids = append(ids, r.id)
	}
	s.seen.onceEach(t, ids...)
}

// TestKubeClusters runs two clusters, one of which is added while the server runs, beside one that is unreachable from
// the start. The three are the same API server and namespace under three addresses, which the server cannot know.
func TestKubeClusters(t *testing.T) {
	t.Parallel()
	const forDead = 40 // more than a worker hands over at a time
	s := newKubeSite(t, "EKS_CLUSTERS="+mainCluster+",dead")
	s.addKubeconfig("dead", unreachable, s.token)
	server := s.serve("a")
	definition := server.define("exit 6")
	runOn := func(cluster string) string { return server.run(definition, object{"cluster": cluster}) }

	var dead, others []string
	for range forDead {
		dead = append(dead, runOn("dead"))
	}
	others = append(others, runOn(mainCluster), runOn(mainCluster))
	for _, id := range others {
		server.awaitStopped(id)
	}
	assert.Contains(t, server.awaitReason(dead[0]), "dead")

	server.mustCall(http.MethodPost, "/clusters", object{"name": "two", "region": "nowhere"}, nil)
	added := runOn("two")
	assert.Contains(t, server.awaitReason(added), "two")
	s.addKubeconfig("two", s.api.url(), s.token)
	server.awaitStopped(added)
	others = append(others, added, runOn(mainCluster))

	s.addKubeconfig("dead", apiServerURL(t).String(), s.token)
	all := s.awaitRuns(len(dead)+len(others), state.StatusStopped)
	for _, r := range all {
		assert.Equal(t, int64(6), r.code.Int64, "%v", r)
	}
	s.seen.onceEach(t, append(dead, others...)...)
}

// TestKubeTroubledClusters checks that the runs of a cluster that takes none show the reason, and that other runs are not
// delayed.
func TestKubeTroubledClusters(t *testing.T) {
	t.Parallel()
	s := newKubeSite(t)
	s.addKubeconfig("unreachable", unreachable, s.token)
	s.addKubeconfig("forbidden", s.api.url(), s.powerlessToken())
	k := &kubeServer{s, s.serve("one", "EKS_CLUSTERS="+mainCluster+",unreachable,forbidden,unconfigured")}

	waiting := map[string]string{}
	for _, cluster := range []string{"unreachable", "forbidden", "unconfigured"} {
		waiting[cluster] = k.execute("true", object{"cluster": cluster})
	}
	good := k.execute("true")
	assert.EqualValues(t, 0, k.awaitStopped(good).code(), "a run elsewhere is not affected")
	for cluster, reason := range map[string]string{
		"unreachable": "connection refused", "forbidden": "cannot create resource", "unconfigured": "There is no configuration",
	} {
		k.awaitRun(waiting[cluster], "QUEUED with its reason", func(r shownRun) bool {
			return r.Status == state.StatusQueued && strings.Contains(r.StatusReason, reason)
		})
	}
	// Two of the clusters become reachable.
	for _, cluster := range []string{"unconfigured", "unreachable"} {
		k.addKubeconfig(cluster, k.api.url(), k.token)
	}
	for _, cluster := range []string{"unconfigured", "unreachable"} {
		assert.EqualValues(t, 0, k.awaitStopped(waiting[cluster]).code(), cluster)
	}
}

// powerlessToken returns a token of an account without rights.
func (k *kubeSite) powerlessToken() string {
	k.t.Helper()
	made, err := k.admin.Client.CoreV1().ServiceAccounts(k.namespace).CreateToken(context.Background(), "default",
		&authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	require.NoError(k.t, err)
	return made.Status.Token
}

// unreachable is an address at which no API server listens.
const unreachable = "https://127.0.0.1:1"
