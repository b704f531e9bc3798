package flotilla_test

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/flotilla"
)

func token(name, access, secret string) config.APIToken {
	sum := sha256.Sum256([]byte(secret))
	return config.APIToken{Name: name, Access: access, SHA256: hex.EncodeToString(sum[:])}
}

func TestTokensAllowReadsOrWrites(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(c *flotilla.RouterConfig) {
		c.HTTP.APITokens = []config.APIToken{
			token("reader", config.AccessRead, "r3ad"), token("writer", config.AccessWrite, "wr1te"),
		}
	})
	for name, c := range map[string]struct {
		method, path, authorization string
		want                        int
	}{
		"no token":                              {http.MethodGet, "/api/v6/history", "", http.StatusUnauthorized},
		"no token to write":                     {http.MethodPost, "/api/v6/task", "", http.StatusUnauthorized},
		"an unknown token":                      {http.MethodGet, "/api/v6/history", "Bearer guess", http.StatusUnauthorized},
		"another scheme":                        {http.MethodGet, "/api/v6/history", "Basic r3ad", http.StatusUnauthorized},
		"the hash instead of the token":         {http.MethodGet, "/api/v6/history", "Bearer " + token("", "", "r3ad").SHA256, http.StatusUnauthorized},
		"a reader reads":                        {http.MethodGet, "/api/v6/history", "Bearer r3ad", http.StatusOK},
		"a reader asks for the head":            {http.MethodHead, "/api/v6/history", "Bearer r3ad", http.StatusOK},
		"the scheme in lower case":              {http.MethodGet, "/api/v6/history", "bearer r3ad", http.StatusOK},
		"a reader writes":                       {http.MethodPut, "/api/v6/task/x/execute", "Bearer r3ad", http.StatusForbidden},
		"a reader deletes":                      {http.MethodDelete, "/api/v6/task/x", "Bearer r3ad", http.StatusForbidden},
		"a writer writes":                       {http.MethodPut, "/api/v6/task/x/execute", "Bearer wr1te", http.StatusBadRequest},
		"a writer reads":                        {http.MethodGet, "/api/v6/history", "Bearer wr1te", http.StatusOK},
		"health needs none":                     {http.MethodGet, "/api/v6/health", "", http.StatusOK},
		"readiness needs none":                  {http.MethodGet, "/readyz", "", http.StatusOK},
		"the document needs none":               {http.MethodGet, "/api/openapi.json", "", http.StatusOK},
		"what does not exist needs none either": {http.MethodGet, "/api/v6/nothing", "", http.StatusNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := a.request(t, c.method, c.path, "")
			r.Header.Set("Authorization", c.authorization)
			got := a.send(t, r)
			assert.Equal(t, c.want, got.status)
			assert.Equal(t, c.want == http.StatusUnauthorized, got.header.Get("WWW-Authenticate") == "Bearer", "as RFC 9110 wants it")
		})
	}
}

func TestATokenThatIsNoHashIsRefusedAtStart(t *testing.T) {
	t.Parallel()
	cfg := newAPI(t).routerConfig(t)
	cfg.HTTP.APITokens = []config.APIToken{{Name: "broken", Access: config.AccessRead, SHA256: "abc"}}
	_, err := flotilla.NewRouter(cfg)
	require.ErrorContains(t, err, "broken")
}

func TestDevModeRefusesRequestsThatAWebPageCouldSend(t *testing.T) {
	t.Parallel()
	dev := newAPI(t, func(c *flotilla.RouterConfig) { c.DevMode = true })
	withTokens := newAPI(t, func(c *flotilla.RouterConfig) {
		c.DevMode = true
		c.HTTP.APITokens = []config.APIToken{token("w", config.AccessWrite, "wr1te")}
	})
	for name, c := range map[string]struct {
		api                      *testAPI
		method, host, kind, body string
		want                     int
	}{
		"a host name that points here":          {dev, http.MethodGet, "evil.example", "", "", http.StatusForbidden},
		"a host name with our port":             {dev, http.MethodGet, "evil.example:5000", "", "", http.StatusForbidden},
		"localhost":                             {dev, http.MethodGet, "localhost:1", "", "", http.StatusOK},
		"IPv4 loopback":                         {dev, http.MethodGet, "127.0.0.1", "", "", http.StatusOK},
		"IPv6 loopback":                         {dev, http.MethodGet, "[::1]:5000", "", "", http.StatusOK},
		"a form":                                {dev, http.MethodPost, "", "application/x-www-form-urlencoded", "{}", http.StatusBadRequest},
		"plain text":                            {dev, http.MethodPut, "", "text/plain", "{}", http.StatusBadRequest},
		"no type":                               {dev, http.MethodPost, "", "", "{}", http.StatusBadRequest},
		"JSON":                                  {dev, http.MethodPut, "", "application/json; charset=utf-8", `{"memory": 1}`, http.StatusNotFound},
		"a deletion has no body":                {dev, http.MethodDelete, "", "", "", http.StatusOK},
		"with tokens the network is let in":     {withTokens, http.MethodGet, "flotilla.example", "", "", http.StatusOK},
		"with tokens the type is not asked for": {withTokens, http.MethodPut, "", "text/plain", `{"memory": 1}`, http.StatusNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := "/api/v6/task/none"
			if c.method == http.MethodGet {
				path = "/api/v6/history"
			}
			if c.method == http.MethodPost {
				path = "/api/v6/task"
			}
			r := c.api.request(t, c.method, path, c.body)
			r.Header.Set("Content-Type", c.kind)
			r.Header.Set("Authorization", "Bearer wr1te")
			r.Host = c.host
			got := c.api.send(t, r)
			assert.Equal(t, c.want, got.status, "%s", got.body)
		})
	}
}

func TestOriginsComeFromTheConfiguration(t *testing.T) {
	t.Parallel()
	preflight := func(origin string, change func(*flotilla.RouterConfig)) (allowed, methods string) {
		a := newAPI(t, change)
		r := a.request(t, http.MethodOptions, "/api/v6/task", "")
		r.Header.Set("Origin", origin)
		r.Header.Set("Access-Control-Request-Method", http.MethodPut)
		r.Header.Set("Access-Control-Request-Headers", "content-type")
		response, err := a.client.Do(r)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response.Header.Get("Access-Control-Allow-Origin"), response.Header.Get("Access-Control-Allow-Methods")
	}
	origins := func(dev bool, list ...string) func(*flotilla.RouterConfig) {
		return func(c *flotilla.RouterConfig) { c.HTTP.CORSAllowedOrigins, c.DevMode = list, dev }
	}
	for name, c := range map[string]struct {
		origin string
		change func(*flotilla.RouterConfig)
		want   string
	}{
		"any":                               {"https://ui.example", origins(false, "*"), "*"},
		"a listed one":                      {"https://ui.example", origins(false, "https://ui.example"), "https://ui.example"},
		"one that is not listed":            {"https://evil.example", origins(false, "https://ui.example"), ""},
		"none is listed":                    {"https://evil.example", origins(false), ""},
		"in dev mode any means any of ours": {"http://localhost:3000", origins(true, "*"), "http://localhost:3000"},
		"in dev mode any does not mean the world": {"https://evil.example", origins(true, "*"), ""},
		"in dev mode a listed one":                {"https://ui.example", origins(true, "https://ui.example"), "https://ui.example"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			allowed, methods := preflight(c.origin, c.change)
			assert.Equal(t, c.want, allowed)
			if c.want != "" {
				assert.Equal(t, http.MethodPut, methods)
			}
		})
	}
}

func TestTheActorReachesTheServices(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	a.seed(t)
	r := a.request(t, http.MethodDelete, "/api/v6/task/any/history/eks-child", "")
	r.Header.Set("X-Forwarded-Email", "ann@example.com")
	require.Equal(t, http.StatusOK, a.send(t, r).status)
	run := a.ok(t, http.MethodGet, "/api/v6/history/eks-child", "")
	assert.Equal(t, "STOPPED", run["status"])
	assert.EqualValues(t, 1, run["exit_code"])
	assert.Equal(t, "Task terminated by - ann@example.com", run["exit_reason"])
}
