// Package server wires the program together: New makes every part from the configuration, in the order in which they
// need each other, and Run runs them. Dev is the same with a private Postgres and jobs as processes of this machine.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stitchfix/flotilla-os/clients/kube"
	"github.com/stitchfix/flotilla-os/clients/logs"
	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/local"
	"github.com/stitchfix/flotilla-os/execution/engine/local/limits"
	"github.com/stitchfix/flotilla-os/execution/worker"
	"github.com/stitchfix/flotilla-os/flotilla"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/services"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/database"
)

// shutdownTimeout is what requests and workers get to finish after SIGTERM. With the hand-back of claims it stays below
// the 30 s that deployments give.
const shutdownTimeout = 20 * time.Second

// logEndMargin is how long after its grace the log of a stopped run may still grow.
const logEndMargin = 30 * time.Second

// Config is what New needs.
type Config struct {
	Config config.Config
	Logger *slog.Logger
	// DevMode guards the API against web pages of the user's own browser.
	DevMode bool
	// Listener takes the API's connections; nil listens on the configured address.
	Listener net.Listener
}

// Server is the program, wired together. It is run once.
type Server struct {
	cfg         config.Config
	logger      *slog.Logger
	listener    net.Listener
	manager     *state.Manager
	notifier    *database.Notifier
	local       *local.Engine // nil if the local driver is off
	definitions *services.DefinitionService
	http        *http.Server
	supervisor  *worker.Supervisor
	// closers are called in reverse order of their making.
	closers []func(context.Context) error
}

// New takes the port, brings the database to this program's schema, and makes every part; nothing runs yet. Its errors
// are one line for the operator. If New fails, it closes what it made; otherwise Run does.
func New(ctx context.Context, c Config) (_ *Server, err error) {
	cfg := c.Config
	s := &Server{cfg: cfg, logger: c.Logger, listener: c.Listener}
	defer func() {
		if err != nil {
			s.close(context.WithoutCancel(ctx))
		}
	}()

	if s.listener == nil {
		if s.listener, err = listen(ctx, cfg.HTTP.ListenAddress); err != nil {
			return nil, err
		}
	}
	s.onClose(func(context.Context) error {
		if err := s.listener.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	measure, err := metrics.New(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	s.onClose(func(context.Context) error { return measure.Close() })
	tracing, err := metrics.NewTracing(ctx, cfg.Tracing)
	if err != nil {
		return nil, err
	}
	s.onClose(tracing.Shutdown)

	s.manager, err = state.NewManager(state.ManagerConfig{
		URL: cfg.DatabaseURL, ReadonlyURL: cfg.ReadonlyDatabaseURL,
		MaxOpen: cfg.DatabaseMaxOpenConnections, MaxIdle: cfg.DatabaseMaxIdleConnections,
		Logger: s.logger, Metrics: measure, ARA: cfg.ARA,
	})
	if err != nil {
		return nil, err
	}
	s.onClose(func(context.Context) error { return s.manager.Close() })
	if err := s.prepareDatabase(ctx); err != nil {
		return nil, err
	}
	s.notifier, err = database.NewNotifier(cfg.DatabaseURL, s.logger)
	if err != nil {
		return nil, err
	}
	locker, err := database.NewLocker(cfg.DatabaseURL, s.logger)
	if err != nil {
		return nil, err
	}

	sizer, err := adapter.New(adapter.AdapterConfig{ARA: cfg.ARA, Metrics: measure, Logger: s.logger, Estimator: s.manager})
	if err != nil {
		return nil, err
	}
	if cfg.Local.Enabled {
		s.local, err = local.New(local.Config{
			ClusterName: cfg.Local.ClusterName, DataDir: cfg.Local.DataDir,
			MemoryMB: cfg.Local.MemoryMB, CPUMillicores: cfg.Local.CPUMillicores,
			LimitMode: limits.Mode(cfg.Local.LimitMode), ContainerRuntime: cfg.Local.ContainerRuntime,
			TerminateGrace: cfg.EKS.TerminateGrace,
			LogRetention:   time.Duration(cfg.EKS.LogRetentionDays) * 24 * time.Hour,
			Sizer:          sizer, Store: s.manager, Logger: s.logger,
		})
		if err != nil {
			return nil, err
		}
	}
	connector, err := kube.NewConnector(kube.ConnectorConfig{EKS: cfg.EKS, Logger: s.logger})
	if err != nil {
		return nil, err
	}
	archive, err := logs.NewFiles(filepath.Join(cfg.Local.DataDir, logsFolder))
	if err != nil {
		return nil, err
	}
	opener := &engineOpener{
		cfg: cfg, local: s.local, connector: connector, archive: archive, sizer: sizer,
		manager: s.manager, metrics: measure, logger: s.logger,
	}

	clusters, err := services.NewClusterService(services.ClusterConfig{
		Store: s.manager, Configured: configuredClusters(cfg), Logger: s.logger, Clock: time.Now,
	})
	if err != nil {
		return nil, err
	}
	engines, err := engine.NewClusters(engine.ClustersConfig{
		Known: func(ctx context.Context) ([]state.Cluster, error) { return clusters.Known(ctx) },
		Open:  opener.open, Logger: s.logger,
	})
	if err != nil {
		return nil, err
	}
	s.onClose(func(context.Context) error { engines.Close(); return nil })
	s.definitions, err = services.NewDefinitionService(services.DefinitionConfig{
		Store: s.manager, Logger: s.logger, OwnerIDVar: cfg.OwnerIDVar,
	})
	if err != nil {
		return nil, err
	}
	executions, err := services.NewExecutionService(services.ExecutionConfig{
		Store: s.manager, Clusters: clusters, Engines: engines, Waker: s.notifier,
		Metrics: measure, Logger: s.logger, Clock: time.Now,
		Mode: cfg.Mode, OwnerIDVar: cfg.OwnerIDVar, TierDefault: cfg.EKS.TierDefault,
		DefaultCluster: defaultCluster(cfg), GPUDefaultCluster: cfg.EKS.GPUClusterDefault,
		Spot: services.SpotPolicy{
			Never: cfg.EKS.SpotOverride, ReattemptShare: cfg.EKS.SpotReattemptOverride, LongMinutes: cfg.EKS.SpotThresholdMinutes,
		},
		Deadlines: cfg.Deadlines, MetricsServerURI: cfg.EKS.MetricsServerURI,
	})
	if err != nil {
		return nil, err
	}
	s.onClose(executions.Close)
	templates, err := services.NewTemplateService(services.TemplateConfig{
		Store: s.manager, Execution: executions, Logger: s.logger, OwnerIDVar: cfg.OwnerIDVar,
		DefaultSize: state.Size{Memory: cfg.ARA.MinMemory, CPU: cfg.ARA.MinCPU},
	})
	if err != nil {
		return nil, err
	}
	logService, err := services.NewLogService(services.LogConfig{
		Store: s.manager, Engines: engines, Logger: s.logger, EndWait: cfg.EKS.TerminateGrace + logEndMargin,
	})
	if err != nil {
		return nil, err
	}
	workers, err := services.NewWorkerService(services.WorkerConfig{Store: s.manager, Logger: s.logger})
	if err != nil {
		return nil, err
	}

	routes := flotilla.RouterConfig{
		Definitions: s.definitions, Executions: executions, Templates: templates,
		Logs: logService, Clusters: clusters, Workers: workers,
		HTTP: cfg.HTTP, DevMode: c.DevMode, Ready: s.ready, Metrics: measure, Logger: s.logger,
	}
	if prometheus, ok := measure.(*metrics.Prometheus); ok {
		routes.MetricsPage = prometheus.Handler()
	}
	if cfg.Tracing.Enabled {
		routes.Tracer = tracing.Provider
	}
	router, err := flotilla.NewRouter(routes)
	if err != nil {
		return nil, err
	}
	s.http = flotilla.NewServer(router, cfg.HTTP, s.logger)
	var types []state.WorkerType
	for _, name := range cfg.Workers.Types {
		types = append(types, state.WorkerType(name))
	}
	s.supervisor, err = worker.NewSupervisor(worker.SupervisorConfig{
		Store: s.manager, Clusters: engines, Notifier: s.notifier, Locker: locker,
		Metrics: measure, Logger: s.logger, Types: types,
		SubmitInterval: cfg.Workers.SubmitInterval, StatusInterval: cfg.Workers.StatusInterval,
		RetryInterval: cfg.Workers.RetryInterval, ManagerInterval: cfg.Workers.ManagerInterval,
		ClaimLease: cfg.ClaimLease, LostAfter: cfg.LostAfter, RetentionDays: cfg.RunsRetentionDays,
		Retry: state.RetryPolicy{
			MaxAttempts: cfg.Retry.MaxAttempts, BaseDelay: cfg.Retry.BaseDelay, MaxDelay: cfg.Retry.MaxDelay,
		},
	})
	return s, err
}

// listen takes a port. Its error names what the operator can do.
func listen(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s (%w): end what uses it, or choose another address (http_server_listen_address, or dev --listen)", address, err)
	}
	return listener, nil
}

// prepareDatabase migrates if that is configured, checks that the database can be used, and does what the first start of
// a database needs.
func (s *Server) prepareDatabase(ctx context.Context) error {
	shown := config.MaskDatabaseURL(s.cfg.DatabaseURL)
	if s.cfg.CreateDatabaseSchema {
		if err := database.Migrate(ctx, s.cfg.DatabaseURL, s.logger); err != nil {
			return fmt.Errorf("cannot prepare the database %s: %w", shown, err)
		}
	}
	if err := s.manager.Check(ctx); err != nil {
		return fmt.Errorf("cannot use the database %s: %w", shown, err)
	}
	if err := s.manager.EnsureWorkers(ctx, s.cfg.Workers.CountPerInstance); err != nil {
		return err
	}
	lost, err := s.manager.AdoptQueued(ctx, s.cfg.AdoptQueuedMaxAge)
	if lost > 0 {
		s.logger.Warn("stopped queued runs that the program before had lost", "runs", lost)
	}
	return err
}

// configuredClusters returns the clusters that the configuration names, and that of the local driver.
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

// defaultCluster returns the cluster of runs that nothing else places: the configured one, else the local driver's.
func defaultCluster(cfg config.Config) string {
	if cfg.EKS.ClusterDefault == "" && cfg.Local.Enabled {
		return cfg.Local.ClusterName
	}
	return cfg.EKS.ClusterDefault
}

// ready serves /readyz: whether the database can be used, and how the local driver enforces memory limits.
func (s *Server) ready(ctx context.Context) (map[string]string, error) {
	info := map[string]string{}
	if s.local != nil {
		info["local_limit_mode"] = s.local.Mode()
	}
	for kind, sentence := range s.supervisor.Unfollowed() {
		info["missing_"+string(kind)+"_workers"] = sentence
	}
	return info, s.manager.Check(ctx)
}

// Run serves until ctx ends or a part fails. It then finishes requests, hands claims back and closes everything.
func (s *Server) Run(ctx context.Context) error {
	defer s.close(context.WithoutCancel(ctx))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.notifier.Run(ctx) })
	group.Go(func() error { return s.supervisor.Run(ctx) })
	group.Go(func() error { return s.expireFiles(ctx) })
	if s.cfg.CreateDatabaseSchema {
		group.Go(func() error { return s.buildIndexes(ctx) })
	}
	group.Go(func() error {
		if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		s.logger.Info("shutting down")
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if err := s.http.Shutdown(ctx); err != nil {
			return s.http.Close()
		}
		return nil
	})
	s.logger.Info("serving", "address", s.listener.Addr().String())
	return group.Wait()
}

// buildIndexes logs a failure and returns nil: without its index a query is slow, not wrong.
func (s *Server) buildIndexes(ctx context.Context) error {
	if err := database.BuildIndexes(ctx, s.cfg.DatabaseURL, s.logger); err != nil && ctx.Err() == nil {
		s.logger.Error("cannot build all indexes; the next start tries again", "error", err)
	}
	return nil
}

func (s *Server) onClose(fn func(context.Context) error) { s.closers = append(s.closers, fn) }

func (s *Server) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout/4)
	defer cancel()
	var errs []error
	for _, fn := range slices.Backward(s.closers) {
		errs = append(errs, fn(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		s.logger.Warn("cannot close everything", "error", err)
	}
}
