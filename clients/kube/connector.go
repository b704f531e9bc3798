// Package kube connects to Kubernetes clusters: it finds the configuration of a cluster and makes clients from it. What
// is done in a cluster is the engine's part (execution/engine/kubernetes).
package kube

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	batchclient "k8s.io/client-go/kubernetes/typed/batch/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/state"
)

// DefaultTimeout bounds one request that is not a stream. A list of ten thousand pods takes seconds.
const DefaultTimeout = 30 * time.Second

// burstPerQPS is the default burst, in requests per request per second.
const burstPerQPS = 2

const (
	contentProtobuf = "application/vnd.kubernetes.protobuf"
	contentJSON     = "application/json"
)

// ConnectorConfig configures a Connector.
type ConnectorConfig struct {
	EKS    config.EKS
	Logger *slog.Logger
	// Version of the program, which API servers record in their audit logs; may be empty.
	Version string
	// Timeout of one request; 0 means DefaultTimeout.
	Timeout time.Duration
	// InCluster defaults to rest.InClusterConfig.
	InCluster func() (*rest.Config, error)
}

// Connector finds the configurations of clusters and makes clients from them. It reads files anew at each call and
// caches nothing.
type Connector struct{ cfg ConnectorConfig }

// NewConnector returns a Connector.
func NewConnector(cfg ConnectorConfig) (*Connector, error) {
	if cfg.Logger == nil {
		return nil, errors.New("kube: a logger is needed")
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.InCluster == nil {
		cfg.InCluster = rest.InClusterConfig
	}
	return &Connector{cfg: cfg}, nil
}

// Cluster is a connection to one cluster. Its clients share connections and the request limit, and are safe for
// concurrent use.
type Cluster struct {
	Name string
	// Source describes where the configuration was found.
	Source string
	// AWS reports whether the cluster's user is authenticated by AWS.
	AWS bool
	// Client is for requests that end; each is bounded by the timeout.
	Client API
	// Streams is for watches and logs, which end when their context does.
	Streams API
	// Metrics reads metrics.k8s.io, which not every cluster serves.
	Metrics metricsclient.Interface

	connector *Connector
	digest    string
	transport http.RoundTripper
}

// API is the part of the Kubernetes API that Flotilla uses. The whole of it (package kubernetes) would add a sixth to
// the program, and more than a tenth to what an idle server holds in memory.
type API struct {
	batch *batchclient.BatchV1Client
	core  *coreclient.CoreV1Client
}

// BatchV1 serves Jobs.
func (a API) BatchV1() batchclient.BatchV1Interface { return a.batch }

// CoreV1 serves pods, events and ConfigMaps.
func (a API) CoreV1() coreclient.CoreV1Interface { return a.core }

// Open makes the clients of a cluster without talking to it. It returns NoConfiguration or BadConfiguration.
func (c *Connector) Open(cluster string) (*Cluster, error) {
	f, err := c.find(cluster)
	if err != nil {
		return nil, err
	}
	opened, err := c.connect(cluster, f)
	if err != nil {
		return nil, BadConfiguration{Cluster: cluster, Source: f.source, Err: err}
	}
	return opened, nil
}

func (c *Connector) connect(cluster string, f found) (*Cluster, error) {
	cfg := rest.CopyConfig(f.rest)
	cfg.UserAgent = "flotilla-os/" + cmp.Or(c.cfg.Version, "unknown") + " (" + runtime.GOOS + "/" + runtime.GOARCH + ")"
	cfg.ContentType = contentProtobuf
	cfg.AcceptContentTypes = contentProtobuf + "," + contentJSON
	cfg.Timeout = 0 // it would end watches too
	cfg.WarningHandlerWithContext = &warnings{logger: c.cfg.Logger.With("cluster", cluster)}
	cfg.QPS, cfg.Burst = limits(c.cfg.EKS.QPS, c.cfg.EKS.Burst)
	if cfg.QPS > 0 {
		// One limiter for all clients of the cluster; each would make its own otherwise.
		cfg.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(cfg.QPS, cfg.Burst)
	}
	streaming, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, err
	}
	bounded := &http.Client{Transport: streaming.Transport, Timeout: c.cfg.Timeout}
	metricsCfg := rest.CopyConfig(cfg)
	// Implementations of the metrics API without protobuf respond in JSON.
	metricsCfg.ContentType = contentJSON
	opened := &Cluster{
		Name: cluster, Source: f.source, AWS: usesAWS(cfg), connector: c, digest: f.digest, transport: streaming.Transport,
	}
	if opened.Streams, err = newAPI(cfg, streaming); err != nil {
		return nil, err
	}
	if opened.Client, err = newAPI(cfg, bounded); err != nil {
		return nil, err
	}
	if opened.Metrics, err = metricsclient.NewForConfigAndClient(metricsCfg, bounded); err != nil {
		return nil, err
	}
	return opened, nil
}

// newAPI returns both parts of the API; cfg holds the request limit that they share.
func newAPI(cfg *rest.Config, client *http.Client) (API, error) {
	batch, err := batchclient.NewForConfigAndClient(cfg, client)
	if err != nil {
		return API{}, err
	}
	core, err := coreclient.NewForConfigAndClient(cfg, client)
	return API{batch, core}, err
}

// limits returns the client's limits. Without a configured limit there is none; client-go's default is 5 requests a
// second.
func limits(qps float64, burst int) (float32, int) {
	if qps <= 0 {
		return -1, 0
	}
	if burst <= 0 {
		burst = max(int(burstPerQPS*qps), 1)
	}
	return float32(qps), burst
}

// usesAWS reports whether the user's credentials come from one of AWS's programs, judged by the program's name.
func usesAWS(cfg *rest.Config) bool {
	if cfg.ExecProvider == nil {
		return false
	}
	switch strings.TrimSuffix(path.Base(filepath.ToSlash(cfg.ExecProvider.Command)), ".exe") {
	case "aws", "aws-iam-authenticator":
		return true
	}
	return false
}

// ImpliedCapabilities returns the capabilities that a cluster of this kind has unless its row has others: nodes of
// AWS are labelled as spot or on-demand and come in two architectures.
func (c *Cluster) ImpliedCapabilities() []state.Capability {
	if !c.AWS {
		return nil
	}
	return []state.Capability{state.CapabilityCapacityType, state.CapabilityArch}
}

// Outdated reports whether the cluster's configuration has changed since Open, its certificates included. One that is
// gone or broken counts as unchanged, because there is no better one.
func (c *Cluster) Outdated() bool {
	f, err := c.connector.find(c.Name)
	return err == nil && f.digest != c.digest
}

// Close closes the idle connections. Those in use are closed when their users end; the clients remain usable.
func (c *Cluster) Close() { utilnet.CloseIdleConnectionsFor(c.transport) }

// maxWarnings bounds how many different warnings of one cluster are remembered.
const maxWarnings = 100

// warningCode is the only code of warnings that Kubernetes uses (RFC 7234, "miscellaneous persistent warning").
const warningCode = 299

// warnings logs each warning text of an API server once, because it comes with every request of a kind.
type warnings struct {
	logger *slog.Logger
	mu     sync.Mutex
	seen   map[string]bool
}

// HandleWarningHeaderWithContext implements rest.WarningHandlerWithContext.
func (w *warnings) HandleWarningHeaderWithContext(ctx context.Context, code int, _ string, text string) {
	if code != warningCode || text == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen[text] || len(w.seen) >= maxWarnings {
		return
	}
	if w.seen == nil {
		w.seen = map[string]bool{}
	}
	w.seen[text] = true
	w.logger.WarnContext(ctx, "warning from the API server", "warning", text)
}
