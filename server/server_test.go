package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Wrap(m)) }

// TestDefaultCluster checks which cluster takes a run that nothing else places, by a request to the whole program.
func TestDefaultCluster(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		local   bool
		cluster string // eks_cluster_default
		code    int
		want    string
	}{
		"the local cluster if none is configured":        {true, "", http.StatusOK, "here"},
		"the configured one beside the local cluster":    {true, "blue", http.StatusOK, "blue"},
		"the configured one without the local driver":    {false, "blue", http.StatusOK, "blue"},
		"none without a local driver and configured one": {false, "", http.StatusBadRequest, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, _, err := config.Load("", nil)
			require.NoError(t, err)
			cfg.DatabaseURL, cfg.CreateDatabaseSchema = statetest.NewURL(t), false
			cfg.HTTP.ListenAddress = "127.0.0.1:0"
			cfg.Local.Enabled, cfg.Local.ClusterName, cfg.Local.DataDir = c.local, "here", t.TempDir()
			cfg.EKS.ClusterDefault = c.cluster
			s, err := New(t.Context(), Config{Config: cfg, Logger: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
			t.Cleanup(func() { s.close(context.WithoutCancel(t.Context())) })

			send := func(method, path, body string) (int, map[string]any) {
				t.Helper()
				request := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
				answer := httptest.NewRecorder()
				s.http.Handler.ServeHTTP(answer, request)
				var members map[string]any
				require.NoError(t, json.Unmarshal(answer.Body.Bytes(), &members), answer.Body)
				return answer.Code, members
			}
			code, _ := send(http.MethodPost, "/api/v6/task", `{"alias": "a", "image": "busybox", "command": "true"}`)
			require.Equal(t, http.StatusOK, code)
			code, run := send(http.MethodPut, "/api/v6/task/alias/a/execute", `{"run_tags": {"owner_id": "ann"}}`)
			assert.Equal(t, c.code, code, run)
			if c.want != "" {
				assert.Equal(t, c.want, run["cluster"])
			}
		})
	}
}
