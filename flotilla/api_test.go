package flotilla_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	_ "github.com/lib/pq" // the driver of testAPI.db
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/flotilla"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/services"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

// testAPI is the HTTP API with the real services on a real database of its own. Only the clusters are fakes.
type testAPI struct {
	url     string
	db      *sql.DB
	manager *state.Manager
	engine  *cluster
	clock   *clock
	config  config.Config
	client  *http.Client
	document
}

// clock is a clock that a test sets.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

// noon is the time of the tests that need a fixed one.
var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func newAPI(t testing.TB, changes ...func(*flotilla.RouterConfig)) *testAPI {
	t.Helper()
	a := &testAPI{engine: newCluster(), clock: &clock{now: noon}, client: &http.Client{}, document: openAPI(t)}
	var url string
	a.manager, url = statetest.NewManager(t, func(c *state.ManagerConfig) {
		c.Clock = a.clock.Now
		c.Logger = slog.New(slog.DiscardHandler)
	})
	var err error
	a.db, err = sql.Open("postgres", url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = a.db.Close() })
	loaded, _, err := config.Load("", nil)
	require.NoError(t, err)
	a.config = loaded
	a.config.Mode = "test"
	a.config.Local.Enabled = true
	a.config.EKS.MetricsServerURI = "https://metrics.example/d?org=1"
	a.serve(t, changes...)
	return a
}

// serve starts a server with the services that a real one has.
func (a *testAPI) serve(t testing.TB, changes ...func(*flotilla.RouterConfig)) {
	t.Helper()
	cfg := a.routerConfig(t)
	for _, change := range changes {
		change(&cfg)
	}
	router, err := flotilla.NewRouter(cfg)
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(router)
	server.Config = flotilla.NewServer(router, cfg.HTTP, cfg.Logger)
	server.Start()
	a.url = server.URL
	t.Cleanup(func() {
		a.client.CloseIdleConnections()
		server.Close()
	})
}

func (a *testAPI) routerConfig(t testing.TB) flotilla.RouterConfig {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	clusters, err := services.NewClusterService(services.ClusterConfig{
		Store: a.manager, Logger: logger, Clock: a.clock.Now,
		Configured: []state.Cluster{{Name: a.config.Local.ClusterName, Driver: state.DriverLocal}},
	})
	require.NoError(t, err)
	executions, err := services.NewExecutionService(services.ExecutionConfig{
		Store: a.manager, Clusters: clusters, Engines: a.engine, Waker: a.engine,
		Metrics: metrics.Nop{}, Logger: logger, Clock: a.clock.Now,
		Mode: a.config.Mode, OwnerIDVar: a.config.OwnerIDVar, TierDefault: a.config.EKS.TierDefault,
		DefaultCluster: a.config.Local.ClusterName, Deadlines: a.config.Deadlines, MetricsServerURI: a.config.EKS.MetricsServerURI,
		Spot: services.SpotPolicy{ReattemptShare: a.config.EKS.SpotReattemptOverride, LongMinutes: a.config.EKS.SpotThresholdMinutes},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, executions.Close(context.Background())) })
	definitions, err := services.NewDefinitionService(services.DefinitionConfig{
		Store: a.manager, Logger: logger, OwnerIDVar: a.config.OwnerIDVar,
	})
	require.NoError(t, err)
	templates, err := services.NewTemplateService(services.TemplateConfig{
		Store: a.manager, Execution: executions, Logger: logger, OwnerIDVar: a.config.OwnerIDVar,
		DefaultSize: state.Size{Memory: a.config.ARA.MinMemory, CPU: a.config.ARA.MinCPU},
	})
	require.NoError(t, err)
	logs, err := services.NewLogService(services.LogConfig{
		Store: a.manager, Engines: a.engine, Logger: logger, FollowInterval: 10 * time.Millisecond,
	})
	require.NoError(t, err)
	workers, err := services.NewWorkerService(services.WorkerConfig{Store: a.manager, Logger: logger})
	require.NoError(t, err)
	return flotilla.RouterConfig{
		Definitions: definitions, Executions: executions, Templates: templates, Logs: logs, Clusters: clusters,
		Workers: workers, HTTP: a.config.HTTP, Metrics: metrics.Nop{}, Logger: logger,
		Ready: func(ctx context.Context) (map[string]string, error) {
			return map[string]string{"limit_mode": "watchdog"}, a.manager.Check(ctx)
		},
	}
}

// answer is the answer to a request of a test.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// call sends a request and checks the answer against the OpenAPI document.
func (a *testAPI) call(t testing.TB, method, path, body string) answer {
	t.Helper()
	return a.send(t, a.request(t, method, path, body))
}

func (a *testAPI) request(t testing.TB, method, path, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, a.url+path, strings.NewReader(body))
	require.NoError(t, err)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

func (a *testAPI) send(t testing.TB, r *http.Request) answer {
	t.Helper()
	response, err := a.client.Do(r)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	got := answer{status: response.StatusCode, header: response.Header}
	got.body, err = io.ReadAll(response.Body)
	require.NoError(t, err)
	a.hold(t, r, got)
	return got
}

// ok sends a request that must succeed, and decodes the answer.
func (a *testAPI) ok(t testing.TB, method, path, body string) map[string]any {
	t.Helper()
	got := a.call(t, method, path, body)
	require.Equal(t, http.StatusOK, got.status, "%s %s %s: %s", method, path, body, got.body)
	return got.object(t)
}

func (a answer) object(t testing.TB) map[string]any {
	t.Helper()
	var members map[string]any
	require.NoError(t, json.Unmarshal(a.body, &members), string(a.body))
	return members
}

// failure returns the message of an error.
func (a answer) failure(t testing.TB) string {
	t.Helper()
	var body struct {
		Error string `json:"error"`
	}
	decoder := json.NewDecoder(bytes.NewReader(a.body))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&body), string(a.body))
	return body.Error
}

// insert stores rows given in JSON without the checks of the services.
func (a *testAPI) insert(t testing.TB, table string, rows json.RawMessage) {
	t.Helper()
	// The test chose the name.
	query := `INSERT INTO ` + table + ` OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_recordset(NULL::` + table + `, $1)`
	_, err := a.db.Exec(query, string(rows))
	require.NoError(t, err, table)
}

// databaseTime returns the time of the clock of the database.
func (a *testAPI) databaseTime(t testing.TB) (now time.Time) {
	t.Helper()
	require.NoError(t, a.db.QueryRow(`SELECT now()`).Scan(&now))
	return now
}

// objects returns the items of a decoded array of objects.
func objects(t testing.TB, value any) []map[string]any {
	t.Helper()
	items, ok := value.([]any)
	require.True(t, ok, "%v is no array", value)
	var out []map[string]any
	for _, item := range items {
		members, ok := item.(map[string]any)
		require.True(t, ok, "%v is no object", item)
		out = append(out, members)
	}
	return out
}
