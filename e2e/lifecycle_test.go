package e2e

import (
	"bufio"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

// SIGTERM arrives while one run runs, another waits for its claim and a client follows a log (architecture.md,
// Production).
func TestSIGTERMStopsTheServerButNotItsRuns(t *testing.T) {
	t.Parallel()
	in := newInstallation(t, statetest.NewURL(t))
	s := in.serve("one")
	ran, gate := in.marker("ran"), in.marker("gate")
	id := s.run(s.define("echo begun; " + untilExists(gate) + "; echo ran >> " + ran))
	log, err := http.Get(s.url + "/api/v6/" + id + "/logs?follow=true")
	require.NoError(t, err)
	defer func() { _ = log.Body.Close() }()
	lines := bufio.NewScanner(log.Body)
	for !strings.Contains(lines.Text(), "begun") {
		require.True(t, lines.Scan(), "the log ended")
	}
	s.stop()

	assert.Equal(t, http.StatusOK, log.StatusCode)
	assert.Zero(t, in.claimed(), "claims are handed back")
	in.awaitRuns(1, state.StatusRunning)
	in.touch(gate)
	in.await("the run to end without a server", func() bool { return len(in.lines(ran)) == 1 })
	again := in.serve("one")
	assert.EqualValues(t, 0, again.awaitStopped(id).code())
	assert.Len(t, in.lines(ran), 1)
}

// A server that ends hands the claims of its runs back, so that another one need not wait for the end of their lease. The
// cluster accepts connections and does not respond, which keeps the runs claimed.
func TestSIGTERMHandsClaimsBack(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	in := newInstallation(t, statetest.NewURL(t), "EKS_CLUSTERS=silent", "CLAIM_LEASE=1h")
	s := in.serve("one", in.kubeconfig("silent", silent.Addr().String()))
	definition := s.define("true")
	s.run(definition, object{"cluster": "silent"})
	s.run(definition, object{"cluster": "silent"})
	in.await("a claim", func() bool { return in.claimed() > 0 })

	s.stop()

	assert.Zero(t, in.claimed())
	in.awaitRuns(2, state.StatusQueued)
}

// claimed returns the number of queued runs that are claimed by a server.
func (in *installation) claimed() (n int) {
	in.t.Helper()
	err := in.db.QueryRowContext(in.t.Context(),
		`SELECT count(*) FROM task WHERE status = 'QUEUED' AND claimed_by IS NOT NULL`).Scan(&n)
	require.NoError(in.t, err)
	return n
}

// kubeconfig writes the kubeconfig of a cluster at an address and returns the environment variable that names its folder.
func (in *installation) kubeconfig(cluster, address string) string {
	in.t.Helper()
	folder := in.t.TempDir()
	text := `{"apiVersion": "v1", "kind": "Config", "current-context": "x",
		"clusters": [{"name": "c", "cluster": {"server": "https://` + address + `", "insecure-skip-tls-verify": true}}],
		"users": [{"name": "u", "user": {"token": "t"}}],
		"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]}`
	require.NoError(in.t, os.WriteFile(filepath.Join(folder, cluster), []byte(text), 0o600))
	return "EKS_KUBECONFIG_BASEPATH=" + folder
}

// A restart without a cluster that was configured leaves its runs waiting with a reason, does not look for the cluster
// for ever, and delays no other run.
func TestAConfiguredClusterIsRemovedWithARestart(t *testing.T) {
	t.Parallel()
	in := newInstallation(t, statetest.NewURL(t))
	s := in.serve("one", "EKS_CLUSTERS=gone", in.kubeconfig("gone", "127.0.0.1:1"))
	definition := s.define("true")
	waiting := s.run(definition, object{"cluster": "gone"})
	running := s.run(definition, object{"cluster": "gone"})
	s.awaitReason(waiting)
	s.stop()
	in.exec(`UPDATE task SET status = 'RUNNING', started_at = now(), attempt_count = 1, status_reason = NULL WHERE run_id = $1`, running)

	s = in.serve("one")
	assert.EqualValues(t, 0, s.awaitStopped(s.run(definition)).code(), "a run of another cluster is executed")
	s.awaitRun(waiting, "QUEUED because its cluster is gone", func(r shownRun) bool {
		return r.Status == state.StatusQueued && strings.Contains(r.StatusReason, "gone")
	})
	warnings := func() int {
		return len(s.output.logged(func(line object) bool { return line["level"] != "INFO" && line["cluster"] == "gone" }))
	}
	require.Never(t, func() bool { return warnings() > 3 }, 10*time.Second, 200*time.Millisecond, "warnings of a cluster that is gone")
	assert.Equal(t, state.StatusRunning, s.get(running).Status, "nothing is known of a run of an unknown cluster")
	for _, id := range []string{waiting, running} {
		s.terminate(id)
		assert.Equal(t, state.StatusStopped, s.get(id).Status)
	}
}
