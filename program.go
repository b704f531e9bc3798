package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/local"
	"github.com/stitchfix/flotilla-os/execution/worker"
	"github.com/stitchfix/flotilla-os/flotilla"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// shutdownPatience is what requests and workers get to finish after SIGTERM;
// with the hand-back of claims it stays below the 30 s that deployments give.
const shutdownPatience = 20 * time.Second

// programConfig is what newProgram needs.
type programConfig struct {
	Config config.Config
	Logger *slog.Logger
	// DevMode guards the API against web pages of the user's own browser.
	DevMode bool
	// Listener takes the API's connections; nil listens on the configured
	// address.
	Listener net.Listener
}

// program is the service, wired together.
type program struct {
	cfg        config.Config
	logger     *slog.Logger
	listener   net.Listener
	metrics    metrics.Client
	tracing    *metrics.Tracing
	manager    *state.Manager
	notifier   *state.Notifier
	clusters   *engine.Clusters
	local      *local.Engine
	kube       *kubeClusters
	services   productServices
	server     *http.Server
	supervisor *worker.Supervisor
}

// newProgram takes the port, brings the database to this program's schema, and
// wires the parts; nothing runs yet. Its errors are one line for the operator.
func newProgram(ctx context.Context, c programConfig) (_ *program, err error) {
	p := &program{cfg: c.Config, logger: c.Logger, listener: c.Listener}
	defer func() {
		if err != nil {
			p.close(context.WithoutCancel(ctx))
		}
	}()
	if p.listener == nil {
		if p.listener, err = listen(ctx, p.cfg.HTTP.ListenAddress); err != nil {
			return nil, err
		}
	}
	if p.metrics, err = metrics.New(p.cfg.Metrics); err != nil {
		return nil, err
	}
	if p.tracing, err = metrics.NewTracing(ctx, p.cfg.Tracing); err != nil {
		return nil, err
	}
	if err = p.openDatabase(ctx); err != nil {
		return nil, err
	}
	if err = p.openClusters(); err != nil {
		return nil, err
	}
	if p.services, err = newServices(p); err != nil {
		return nil, err
	}
	if err = p.buildServer(c.DevMode); err != nil {
		return nil, err
	}
	return p, p.buildSupervisor()
}

// listen takes a port; where it is taken, the error says what to do.
func listen(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s (%w): end what uses it, or choose another address (http_server_listen_address, or dev --listen)", address, err)
	}
	return listener, nil
}

// openDatabase connects, migrates where configured, and prepares what the
// first start of a database needs.
func (p *program) openDatabase(ctx context.Context) error {
	var err error
	p.manager, err = state.NewManager(state.ManagerConfig{
		URL: p.cfg.DatabaseURL, ReadonlyURL: p.cfg.ReadonlyDatabaseURL,
		MaxOpen: p.cfg.DatabaseMaxOpenConnections, MaxIdle: p.cfg.DatabaseMaxIdleConnections,
		Logger: p.logger, Metrics: p.metrics, ARA: p.cfg.ARA,
	})
	if err != nil {
		return err
	}
	if p.cfg.CreateDatabaseSchema {
		if err := state.Migrate(ctx, p.cfg.DatabaseURL, p.logger); err != nil {
			return fmt.Errorf("cannot prepare the database %s: %w", config.MaskDatabaseURL(p.cfg.DatabaseURL), err)
		}
	}
	if err := p.manager.Check(ctx); err != nil {
		return fmt.Errorf("cannot use the database %s: %w", config.MaskDatabaseURL(p.cfg.DatabaseURL), err)
	}
	if err := p.manager.EnsureWorkers(ctx, p.cfg.Workers.CountPerInstance); err != nil {
		return err
	}
	lost, err := p.manager.AdoptQueued(ctx, p.cfg.AdoptQueuedMaxAge)
	if lost > 0 {
		p.logger.Warn("stopped queued runs that the program before had lost", "runs", lost)
	}
	if err != nil {
		return err
	}
	p.notifier, err = state.NewNotifier(state.NotifierConfig{URL: p.cfg.DatabaseURL, Logger: p.logger})
	return err
}

// openClusters makes the registry of clusters, and the local one where it is
// configured.
func (p *program) openClusters() error {
	sizer, err := adapter.New(adapter.AdapterConfig{
		ARA: p.cfg.ARA, Metrics: p.metrics, Logger: p.logger, Estimator: p.manager,
	})
	if err != nil {
		return err
	}
	if p.cfg.Local.Enabled {
		if p.local, err = newLocalEngine(p.cfg, sizer, p.manager, p.logger); err != nil {
			return err
		}
	}
	if p.kube, err = p.newKubeClusters(sizer); err != nil {
		return err
	}
	p.clusters, err = engine.NewClusters(engine.ClustersConfig{
		Known: func(ctx context.Context) ([]state.Cluster, error) { return p.services.clusters.Known(ctx) },
		Open:  p.openEngine, Logger: p.logger,
	})
	return err
}

func newLocalEngine(cfg config.Config, sizer local.Sizer, store local.Store, logger *slog.Logger) (*local.Engine, error) {
	return local.New(local.Config{
		ClusterName: cfg.Local.ClusterName, DataDir: cfg.Local.DataDir,
		MemoryMB: cfg.Local.MemoryMB, CPUMillicores: cfg.Local.CPUMillicores,
		LimitMode: local.Mode(cfg.Local.LimitMode), ContainerRuntime: cfg.Local.ContainerRuntime,
		TerminateGrace: cfg.EKS.TerminateGrace,
		LogRetention:   time.Duration(cfg.EKS.LogRetentionDays) * 24 * time.Hour,
		Sizer:          sizer, Store: store, Logger: logger,
	})
}

// configuredClusters are the clusters that the configuration names, and that
// of the local driver.
func configuredClusters(cfg config.Config) []state.Cluster {
	var clusters []state.Cluster
	for _, name := range cfg.EKS.Clusters {
		clusters = append(clusters, state.Cluster{
			Name: name, Status: state.ClusterActive, Region: cfg.AWSDefaultRegion, Driver: state.DriverKubernetes,
		})
	}
	if cfg.Local.Enabled {
		clusters = append(clusters, state.Cluster{
			Name: cfg.Local.ClusterName, Status: state.ClusterActive, Driver: state.DriverLocal,
		})
	}
	return clusters
}

// buildServer makes the HTTP server of the API.
func (p *program) buildServer(devMode bool) error {
	cfg := flotilla.RouterConfig{
		Definitions: p.services.definitions, Executions: p.services.executions, Templates: p.services.templates,
		Logs: p.services.logs, Clusters: p.services.clusters, Workers: p.services.workers,
		HTTP: p.cfg.HTTP, DevMode: devMode, Ready: p.ready, Metrics: p.metrics, Logger: p.logger,
	}
	if prometheus, ok := p.metrics.(*metrics.Prometheus); ok {
		cfg.MetricsPage = prometheus.Handler()
	}
	if p.cfg.Tracing.Enabled {
		cfg.Tracer = p.tracing.Provider
	}
	router, err := flotilla.NewRouter(cfg)
	if err != nil {
		return err
	}
	p.server = flotilla.NewServer(router, p.cfg.HTTP, p.logger)
	return nil
}

// ready says for /readyz whether the database can be used, and how the local
// driver keeps its limits.
func (p *program) ready(ctx context.Context) (map[string]string, error) {
	info := map[string]string{}
	if p.local != nil {
		info["local_limit_mode"] = p.local.Mode()
	}
	return info, p.manager.Check(ctx)
}

func (p *program) buildSupervisor() error {
	locker, err := state.NewLocker(state.LockerConfig{URL: p.cfg.DatabaseURL, Logger: p.logger})
	if err != nil {
		return err
	}
	p.supervisor, err = worker.NewSupervisor(worker.SupervisorConfig{
		Store: p.manager, Clusters: p.clusters, Notifier: p.notifier, Locker: locker,
		Config: p.cfg, Metrics: p.metrics, Logger: p.logger,
	})
	return err
}

// run serves until ctx ends or a part fails, then lets requests finish, hands
// claims back and closes everything.
func (p *program) run(ctx context.Context) error {
	defer p.close(context.WithoutCancel(ctx))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.notifier.Run(ctx) })
	group.Go(func() error { return p.supervisor.Run(ctx) })
	group.Go(func() error { return p.expireFiles(ctx) })
	if p.cfg.CreateDatabaseSchema {
		group.Go(func() error { return p.buildIndexes(ctx) })
	}
	group.Go(p.serveHTTP)
	group.Go(func() error { return p.shutdownHTTP(ctx) })
	p.logger.Info("serving", "address", p.listener.Addr().String())
	return group.Wait()
}

// buildIndexes is not waited for by anybody: without its index a query is
// slow, not wrong. A failure is logged, and the next start goes on.
func (p *program) buildIndexes(ctx context.Context) error {
	if err := state.BuildIndexes(ctx, p.cfg.DatabaseURL, p.logger); err != nil && ctx.Err() == nil {
		p.logger.Error("could not build all indexes; the next start tries again", "error", err)
	}
	return nil
}

func (p *program) serveHTTP() error {
	if err := p.server.Serve(p.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (p *program) shutdownHTTP(ctx context.Context) error {
	<-ctx.Done()
	p.logger.Info("shutting down")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownPatience)
	defer cancel()
	if err := p.server.Shutdown(ctx); err != nil {
		return p.server.Close()
	}
	return nil
}

// close gives back what newProgram took; the parts it had not made yet are nil.
func (p *program) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, shutdownPatience/4)
	defer cancel()
	var errs []error
	if p.services.executions != nil {
		errs = append(errs, p.services.executions.Close(ctx))
	}
	if p.kube != nil {
		p.kube.close()
	}
	if p.manager != nil {
		errs = append(errs, p.manager.Close())
	}
	if p.tracing != nil {
		errs = append(errs, p.tracing.Shutdown(ctx))
	}
	if p.metrics != nil {
		errs = append(errs, p.metrics.Close())
	}
	if p.listener != nil {
		if err := p.listener.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		p.logger.Warn("could not close everything", "error", err)
	}
}
