//go:build kube

package e2e

import (
	"encoding/json"
	"maps"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/clients/kube/kubetest"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

const (
	// kubePatience bounds every wait for the cluster.
	kubePatience = 3 * time.Minute
	kubePoll     = 50 * time.Millisecond
)

// kubeServer is a site with one server.
type kubeServer struct {
	*kubeSite
	*server
}

// newKube prepares a site; no server runs yet.
func newKube(t *testing.T, env ...string) *kubeServer {
	t.Helper()
	return &kubeServer{kubeSite: newKubeSiteOn(t, statetest.NewURL(t), env...)}
}

// startKube starts a server on all that.
func startKube(t *testing.T, env ...string) *kubeServer {
	t.Helper()
	k := newKube(t, env...)
	k.server = k.serve("one")
	return k
}

// on is the same for a subtest.
func (k *kubeServer) on(t *testing.T) *kubeServer {
	in, site, s := *k.installation, *k.kubeSite, *k.server
	in.t = t
	site.installation, s.in = &in, &in
	return &kubeServer{&site, &s}
}

// run executes a command on the cluster, as a definition of its own; extra fields are of the launch.
func (k *kubeServer) run(command string, extra ...object) string {
	k.t.Helper()
	return k.execute(k.defineImage(kubetest.Image(), command, 512), extra...)
}

func (k *kubeServer) defineImage(image, command string, memory int) string {
	k.t.Helper()
	return k.defineJob(k.server, object{"image": image, "command": command, "memory": memory, "cpu": 256})
}

func (k *kubeServer) execute(definition string, extra ...object) string {
	k.t.Helper()
	request := object{"cluster": mainCluster}
	for _, e := range extra {
		maps.Copy(request, e)
	}
	return k.kubeSite.run(k.server, definition, request)
}

func (k *kubeServer) stop(id string) {
	k.t.Helper()
	k.mustCall(http.MethodDelete, "/task/"+k.get(id).DefinitionID+"/history/"+id, nil, nil)
}

// kubeRun is what the API says of a run.
type kubeRun struct {
	DefinitionID  string          `json:"definition_id"`
	Status        state.Status    `json:"status"`
	StatusReason  string          `json:"status_reason"`
	ExitCode      *int64          `json:"exit_code"`
	ExitReason    string          `json:"exit_reason"`
	Attempts      int64           `json:"attempt_count"`
	Memory        int64           `json:"memory"`
	MemoryLimit   int64           `json:"memory_limit"`
	CPU           int64           `json:"cpu"`
	CPULimit      int64           `json:"cpu_limit"`
	PodName       string          `json:"pod_name"`
	Namespace     string          `json:"namespace"`
	MaxMemoryUsed int64           `json:"max_memory_used"`
	MaxCPUUsed    int64           `json:"max_cpu_used"`
	PodEvents     state.PodEvents `json:"pod_events"`
	StartedAt     *time.Time      `json:"started_at"`
	FinishedAt    *time.Time      `json:"finished_at"`
	Instance      state.Instance  `json:"instance"`
}

func (k *kubeServer) get(id string) kubeRun {
	k.t.Helper()
	var run kubeRun
	k.mustCall(http.MethodGet, "/history/"+id, nil, &run)
	return run
}

// awaits polls a run until it is as wanted.
func (k *kubeServer) awaits(id, what string, is func(kubeRun) bool) kubeRun {
	k.t.Helper()
	var run kubeRun
	deadline := time.Now().Add(kubePatience)
	tick := time.NewTicker(kubePoll)
	defer tick.Stop()
	for {
		if run = k.get(id); is(run) {
			return run
		}
		if time.Now().After(deadline) {
			seen, _ := json.MarshalIndent(run, "", " ")
			require.FailNow(k.t, "the run did not become "+what, "run %s: %s", id, seen)
		}
		select {
		case <-k.t.Context().Done():
			require.FailNow(k.t, "the test is over")
		case <-tick.C:
		}
	}
}

func (k *kubeServer) awaitStatus(id string, status state.Status) kubeRun {
	k.t.Helper()
	return k.awaits(id, string(status), func(r kubeRun) bool { return r.Status == status })
}

// awaitStopped answers the run as it ended.
func (k *kubeServer) awaitStopped(id string) kubeRun {
	k.t.Helper()
	return k.awaitStatus(id, state.StatusStopped)
}

// log is the run's whole log.
func (k *kubeServer) log(id string) string {
	k.t.Helper()
	return k.logOf(k.server, id)
}

// pods lists the pods of a run, all attempts'.
func (k *kubeServer) pods(id string) []corev1.Pod {
	k.t.Helper()
	list, err := k.admin.Client.CoreV1().Pods(k.namespace).List(k.t.Context(), metav1.ListOptions{LabelSelector: "flotilla-run-id=" + id})
	require.NoError(k.t, err)
	return list.Items
}

func codeOf(r kubeRun) any {
	if r.ExitCode == nil {
		return nil
	}
	return *r.ExitCode
}

// polled is the run's log, read page by page as clients do.
func (k *kubeServer) polled(id string) string {
	k.t.Helper()
	var all, seen string
	for {
		var page struct {
			Log      string `json:"log"`
			LastSeen string `json:"last_seen"`
		}
		k.mustCall(http.MethodGet, "/"+id+"/logs?last_seen="+seen, nil, &page)
		all += page.Log
		if page.LastSeen == seen {
			return all
		}
		seen = page.LastSeen
	}
}
