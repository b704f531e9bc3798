package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/stitchfix/flotilla-os/clients/kube"
	"github.com/stitchfix/flotilla-os/clients/logs"
	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/metrics/metricstest"
	"github.com/stitchfix/flotilla-os/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// apiServer responds as an API server does in one situation, and records the requests. What becomes of a Job is tested
// on a real cluster.
type apiServer struct {
	mu     sync.Mutex
	asked  []string
	create *metav1.Status // the response to creating a Job; nil creates it
	there  *batchv1.Job
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, r.Method+" "+r.URL.Path)
	answer := func(code int, body any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(body)
	}
	isJob := strings.Contains(r.URL.Path, "/jobs")
	switch {
	case isJob && r.Method == http.MethodPost && s.create != nil:
		answer(int(s.create.Code), s.create)
	case isJob && r.Method == http.MethodGet && s.there != nil:
		answer(http.StatusOK, s.there)
	case r.Method == http.MethodGet:
		answer(http.StatusOK, map[string]any{"kind": "PodList", "apiVersion": "v1", "items": []any{}})
	case isJob:
		answer(http.StatusOK, &batchv1.Job{TypeMeta: metav1.TypeMeta{Kind: "Job", APIVersion: "batch/v1"}})
	default:
		answer(http.StatusOK, map[string]any{"kind": "ConfigMap", "apiVersion": "v1"})
	}
}

func (s *apiServer) count(request string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, asked := range s.asked {
		if asked == request {
			n++
		}
	}
	return n
}

// sized gives every run the same size.
type sized struct{}

var _ Sizer = sized{}

func (sized) Resources(context.Context, state.Executable, state.Run, state.Size) (adapter.Sized, error) {
	size := state.Size{Memory: 512, CPU: 256}
	return adapter.Sized{Resources: adapter.Resources{Size: size, Limit: size}}, nil
}

func (sized) Report(context.Context, state.Run, adapter.Sized) {}

// rows is a database of runs.
type rows struct {
	active  []state.Run
	stopped []string
}

var _ Store = rows{}

func (r rows) ActiveRuns(context.Context, state.EngineKey, string, string, int) ([]state.Run, error) {
	return r.active, nil
}

func (r rows) StoppedAmong(context.Context, []string) ([]string, error) { return r.stopped, nil }

func makeEngine(t *testing.T, api http.Handler, store Store) (*Engine, string) {
	t.Helper()
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	text, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:  map[string]*clientcmdapi.Cluster{"c": {Server: server.URL}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"u": {}},
		Contexts:  map[string]*clientcmdapi.Context{"c": {Cluster: "c", AuthInfo: "u"}},
	})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "prod"), text, 0o600))
	eks := config.EKS{KubeconfigBasepath: dir, JobNamespace: "jobs", ImagePullPolicy: "Always", MaxPodEvents: 20}
	connector, err := kube.NewConnector(kube.ConnectorConfig{EKS: eks, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	connection, err := connector.Open("prod")
	require.NoError(t, err)
	archive, err := logs.NewFiles(filepath.Join(dir, "logs"))
	require.NoError(t, err)
	e, err := New(Config{
		Cluster: state.Cluster{Name: "prod"}, Kube: connection, EKS: eks,
		DataDir: dir, Archive: archive, Sizer: sized{}, Store: store, Logger: slog.New(slog.DiscardHandler),
		Metrics: metricstest.New(t),
	})
	require.NoError(t, err)
	t.Cleanup(e.Close)
	return e, dir
}

func makeRun() state.Run {
	return state.Run{RunID: "eks-1", Image: "i", ClusterName: "prod", Command: new("true"), Labels: state.Labels{"team": "Data"}}
}

// submission returns accepted from Accept, and keeps what was accepted.
func submission(run state.Run, accepted bool, given *[]state.Acceptance) engine.Submission {
	return engine.Submission{Run: run, Executable: state.Definition{}, Accept: func(_ context.Context, a state.Acceptance) (bool, error) {
		*given = append(*given, a)
		return accepted, nil
	}}
}

func status(code int32, reason metav1.StatusReason) *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: code, Reason: reason, Message: "said the API server",
	}
}

const (
	createJob = "POST /apis/batch/v1/namespaces/jobs/jobs"
	deleteJob = "DELETE /apis/batch/v1/namespaces/jobs/jobs/eks-1"
	teamMap   = "POST /api/v1/namespaces/jobs/configmaps"
)

func TestExecute(t *testing.T) {
	t.Parallel()
	api := &apiServer{}
	e, _ := makeEngine(t, api, rows{})
	var given []state.Acceptance
	for range 2 {
		require.NoError(t, e.Execute(t.Context(), submission(makeRun(), true, &given)))
	}
	require.Len(t, given, 2)
	assert.EqualValues(t, 512, given[0].Memory)
	assert.Equal(t, "jobs", *given[0].Namespace)
	assert.Equal(t, 1, api.count(teamMap), "a team is registered once")
	assert.Equal(t, 2, api.count(createJob))
	manifest, err := e.Manifest(t.Context(), makeRun())
	require.NoError(t, err)
	assert.Contains(t, string(manifest), "name: eks-1")
}

func TestExecuteRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer *metav1.Status
		is     func(error) bool
	}{
		"an invalid Job is rejected": {
			status(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid),
			func(err error) bool { return errors.As(err, new(engine.Rejected)) }},
		"a Job that cannot be read is rejected": {
			status(http.StatusBadRequest, metav1.StatusReasonBadRequest),
			func(err error) bool { return errors.As(err, new(engine.Rejected)) }},
		"a quota is waited for": {
			status(http.StatusForbidden, metav1.StatusReasonForbidden),
			func(err error) bool { return errors.As(err, new(engine.NotNow)) }},
		"anything else is tried again": {
			status(http.StatusInternalServerError, metav1.StatusReasonInternalError),
			func(err error) bool {
				return err != nil && !errors.As(err, new(engine.Rejected)) && !errors.As(err, new(engine.NotNow))
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, _ := makeEngine(t, &apiServer{create: tc.answer}, rows{})
			var given []state.Acceptance
			err := e.Execute(t.Context(), submission(makeRun(), true, &given))
			assert.True(t, tc.is(err), "%T %v", err, err)
			assert.ErrorContains(t, err, "said the API server")
			assert.Empty(t, given, "a run that the cluster does not have is not accepted")
		})
	}
}

func TestExecuteFindsTheJob(t *testing.T) {
	t.Parallel()
	run := makeRun()
	there, err := job.Build(job.Input{
		Run: run, Resources: adapter.Resources{Size: state.Size{Memory: 896, CPU: 300}, Limit: state.Size{Memory: 900, CPU: 400}},
		Settings: job.Settings{EKS: config.EKS{JobNamespace: "jobs"}},
	})
	require.NoError(t, err)
	api := &apiServer{create: status(http.StatusConflict, metav1.StatusReasonAlreadyExists), there: there}
	e, _ := makeEngine(t, api, rows{})
	var given []state.Acceptance
	require.NoError(t, e.Execute(t.Context(), submission(run, true, &given)))
	require.Len(t, given, 1)
	got := given[0]
	assert.Equal(t, []int64{896, 900, 300, 400}, []int64{got.Memory, got.Limit.Memory, got.CPU, got.Limit.CPU}, "the sizes are the Job's")

	there.DeletionTimestamp = new(metav1.Now())
	assert.ErrorAs(t, e.Execute(t.Context(), submission(run, true, &given)), new(engine.NotNow), "a Job that is being deleted is not the run's")
}

func TestExecuteNotAccepted(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		stopped []string
		deleted int
	}{
		"stopped: the Job is taken back":                {[]string{"eks-1"}, 1},
		"claimed by another, which finds this very Job": {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := &apiServer{}
			e, _ := makeEngine(t, api, rows{stopped: tc.stopped})
			var given []state.Acceptance
			require.NoError(t, e.Execute(t.Context(), submission(makeRun(), false, &given)))
			assert.Equal(t, tc.deleted, api.count(deleteJob))
		})
	}
}

// estimated is a history of memory kills.
type estimated state.Size

func (s estimated) EstimateRunResources(context.Context, string, string) (state.Size, error) {
	return state.Size(s), nil
}

func TestADecisionIsReportedOnceTheRunIsAccepted(t *testing.T) {
	t.Parallel()
	api, measured := &apiServer{}, metricstest.New(t)
	e, _ := makeEngine(t, api, rows{})
	sizer, err := adapter.New(adapter.AdapterConfig{
		ARA: config.Default().ARA, Metrics: measured, Logger: slog.New(slog.DiscardHandler),
		Estimator: estimated{Memory: 1568, CPU: 500},
	})
	require.NoError(t, err)
	e.cfg.Sizer, e.cfg.Capacity = sizer, state.Size{Memory: 1500}
	execute := func(accepted bool) (given []state.Acceptance) {
		run := makeRun()
		run.CommandHash = new("h")
		submitted := submission(run, accepted, &given)
		submitted.Executable = state.Definition{DefinitionID: "d"}
		require.NoError(t, e.Execute(t.Context(), submitted))
		return given
	}
	reported := func() []float64 {
		return measured.Values(metrics.EngineEKSARAFinalMemoryMB, "engine:eks", "cluster:prod")
	}
	execute(false)
	assert.Empty(t, reported(), "the run was not accepted")
	given := execute(true)
	assert.EqualValues(t, 1500, given[0].Memory, "what was learnt is cut to the cluster's capacity")
	assert.Equal(t, []float64{1500}, reported())

	api.create = status(http.StatusConflict, metav1.StatusReasonAlreadyExists)
	api.there, err = job.Build(job.Input{
		Run: makeRun(), Resources: adapter.Resources{Size: state.Size{Memory: 896, CPU: 300}, Limit: state.Size{Memory: 900, CPU: 400}},
		Settings: job.Settings{EKS: config.EKS{JobNamespace: "jobs"}},
	})
	require.NoError(t, err)
	assert.EqualValues(t, 896, execute(true)[0].Memory)
	assert.Len(t, reported(), 1, "the size of an existing Job is no new decision")
}

func TestOutdated(t *testing.T) {
	t.Parallel()
	e, dir := makeEngine(t, &apiServer{}, rows{})
	assert.False(t, e.Outdated())
	file := filepath.Join(dir, "prod")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "127.0.0.1", "localhost")), 0o600))
	assert.True(t, e.Outdated())
	require.NoError(t, os.Remove(file))
	assert.False(t, e.Outdated(), "a kubeconfig that is gone changes nothing")
}
