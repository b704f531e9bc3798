package kube

import (
	"errors"
	"log/slog"
	"net/http"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/state"
)

// DefaultTimeout bounds one request that is not a stream. A list of ten thousand pods takes seconds.
const DefaultTimeout = 30 * time.Second

// burstPerQPS is what a limit without a burst lets through at once, in requests per request per second.
const burstPerQPS = 2

const (
	contentProtobuf = "application/vnd.kubernetes.protobuf"
	contentJSON     = "application/json"
)

// ConnectorConfig is what a Connector is made of.
type ConnectorConfig struct {
	EKS    config.EKS
	Logger *slog.Logger
	// Version of the program, which API servers see in their audit logs; may be empty.
	Version string
	// Timeout of one request; 0 means DefaultTimeout.
	Timeout time.Duration
	// InCluster is rest.InClusterConfig where nil.
	InCluster func() (*rest.Config, error)
}

// Connector finds the configurations of clusters and makes clients of them. It reads files anew at each call and keeps
// nothing.
type Connector struct{ cfg ConnectorConfig }

// NewConnector makes a Connector.
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

// Cluster is a connection to one cluster. Its clients share connections and the limit of requests, and may be used
// from many goroutines at once.
type Cluster struct {
	Name string
	// Source is where its configuration was found, in words.
	Source string
	// Fingerprint is what Connector.Fingerprint said when the connection was made.
	Fingerprint string
	// AWS is whether the cluster's user is authenticated by AWS.
	AWS bool
	// Client is for requests that end; each is bounded by the timeout.
	Client API
	// Streams is for watches and logs, which end when their context does.
	Streams API
	// Metrics asks metrics.k8s.io, which not every cluster serves.
	Metrics metricsclient.Interface

	connector *Connector
	transport http.RoundTripper
}

// Outdated is whether the cluster's configuration is another one by now. One that is gone or broken counts as the same:
// there is nothing better to be had.
func (c *Cluster) Outdated() bool {
	now, err := c.connector.Fingerprint(c.Name)
	return err == nil && now != c.Fingerprint
}

// Open makes the clients of a cluster; it does not talk to it. The errors are NoConfiguration and BadConfiguration.
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

// Fingerprint changes when a cluster's configuration does, its certificates included. A connection whose fingerprint is
// another one is to be made anew. The errors are those of Open.
func (c *Connector) Fingerprint(cluster string) (string, error) {
	f, err := c.find(cluster)
	if err != nil {
		return "", err
	}
	return f.digest, nil
}

func (c *Connector) connect(cluster string, f found) (*Cluster, error) {
	cfg := c.prepared(cluster, f.rest)
	streaming, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, err
	}
	bounded := &http.Client{Transport: streaming.Transport, Timeout: c.cfg.Timeout}
	metricsCfg := rest.CopyConfig(cfg)
	// Not every implementation of the metrics API knows protobuf; who does not answers in JSON.
	metricsCfg.ContentType = contentJSON
	opened := &Cluster{
		Name: cluster, Source: f.source, Fingerprint: f.digest, AWS: usesAWS(cfg),
		connector: c, transport: streaming.Transport,
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

// prepared sets what is the same for all clusters.
func (c *Connector) prepared(cluster string, base *rest.Config) *rest.Config {
	cfg := rest.CopyConfig(base)
	cfg.UserAgent = userAgent(c.cfg.Version)
	cfg.ContentType = contentProtobuf
	cfg.AcceptContentTypes = contentProtobuf + "," + contentJSON
	cfg.Timeout = 0 // it would end watches too
	cfg.WarningHandlerWithContext = &warnings{logger: c.cfg.Logger.With("cluster", cluster)}
	cfg.QPS, cfg.Burst = limits(c.cfg.EKS.QPS, c.cfg.EKS.Burst)
	if cfg.QPS > 0 {
		// One for all clients of the cluster; each would make its own otherwise.
		cfg.RateLimiter = flowcontrol.NewTokenBucketRateLimiter(cfg.QPS, cfg.Burst)
	}
	return cfg
}

// limits are the client's: without a configured limit there is none, where client-go would take 5 requests a second.
func limits(qps float64, burst int) (float32, int) {
	if qps <= 0 {
		return -1, 0
	}
	if burst <= 0 {
		burst = max(int(burstPerQPS*qps), 1)
	}
	return float32(qps), burst
}

func userAgent(version string) string {
	if version == "" {
		version = "unknown"
	}
	return "flotilla-os/" + version + " (" + runtime.GOOS + "/" + runtime.GOARCH + ")"
}

// usesAWS is whether the user's credentials come from one of AWS' programs, by the program's name alone.
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

// ImpliedCapabilities are those that a cluster of this kind has unless its row says otherwise: nodes of AWS say
// whether they are spot, and come in two architectures.
func (c *Cluster) ImpliedCapabilities() []state.Capability {
	if !c.AWS {
		return nil
	}
	return []state.Capability{state.CapabilityCapacityType, state.CapabilityArch}
}

// Close closes the connections that are not in use. Those in use are closed when what uses them ends; the clients go
// on to work.
func (c *Cluster) Close() { utilnet.CloseIdleConnectionsFor(c.transport) }
