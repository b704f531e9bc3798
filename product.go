package main

import (
	"errors"
	"time"

	"github.com/stitchfix/flotilla-os/services"
)

// productServices are what the API offers.
type productServices struct {
	definitions *services.DefinitionService
	executions  *services.ExecutionService
	templates   *services.TemplateService
	logs        *services.LogService
	clusters    *services.ClusterService
	workers     *services.WorkerService
}

func newServices(p *program) (productServices, error) {
	var s productServices
	var errs [6]error
	s.clusters, errs[0] = services.NewClusterService(services.ClusterConfig{
		Store: p.manager, Configured: configuredClusters(p.cfg), Logger: p.logger, Clock: time.Now,
	})
	s.definitions, errs[1] = services.NewDefinitionService(services.DefinitionConfig{
		Store: p.manager, Logger: p.logger, OwnerIDVar: p.cfg.OwnerIDVar,
	})
	s.workers, errs[2] = services.NewWorkerService(services.WorkerConfig{Store: p.manager, Logger: p.logger})
	s.logs, errs[3] = services.NewLogService(services.LogConfig{Store: p.manager, Engines: p.clusters})
	s.executions, errs[4] = services.NewExecutionService(services.ExecutionConfig{
		Store: p.manager, Clusters: s.clusters, Engines: p.clusters, Waker: p.notifier,
		Config: p.cfg, Metrics: p.metrics, Logger: p.logger, Clock: time.Now,
	})
	s.templates, errs[5] = services.NewTemplateService(services.TemplateConfig{
		Store: p.manager, Execution: s.executions, ARA: p.cfg.ARA, Logger: p.logger, OwnerIDVar: p.cfg.OwnerIDVar,
	})
	return s, errors.Join(errs[:]...)
}
