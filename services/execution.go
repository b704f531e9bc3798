package services

import (
	"context"
	"crypto/md5" //nolint:gosec // The identity of a command, not a secret: existing rows and clients hold MD5.
	"encoding/hex"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// RunStore is what the service needs of the stored runs.
type RunStore interface {
	// CreateRun stores a run, or answers false and the earlier run that has
	// its idempotence key.
	CreateRun(ctx context.Context, r state.Run) (state.Run, bool, error)
	GetRun(ctx context.Context, id string) (state.Run, error)
	ListRuns(ctx context.Context, o state.ListOptions) (state.RunList, error)
	ListChildRuns(ctx context.Context, parentID string) ([]string, error)
	// StopRun answers the run as it is now and whether this call stopped it.
	StopRun(ctx context.Context, id, reason string) (state.Run, bool, error)
	// SelfReportRun answers the run as it is now and whether the report
	// moved it.
	SelfReportRun(ctx context.Context, id string, r state.SelfReport) (state.Run, bool, error)
}

// HistoryStore answers what the lifecycle choice asks of the past.
type HistoryStore interface {
	// EstimateRuntime is the P95 runtime of a command in minutes, last 7 days;
	// state.MissingResource where it never ran.
	EstimateRuntime(ctx context.Context, executableID, commandHash string) (float64, error)
	// ReattemptRate is the share (0 to 1) of multi-attempt spot runs of the
	// last 18 minutes; state.MissingResource where there were none.
	ReattemptRate(ctx context.Context) (float64, error)
}

// ExecutableStore finds what runs are made from.
type ExecutableStore interface {
	GetDefinition(ctx context.Context, id string) (state.Definition, error)
	GetDefinitionByAlias(ctx context.Context, alias string) (state.Definition, error)
	GetTemplate(ctx context.Context, id string) (state.Template, error)
}

// ExecutionStore is the database as the ExecutionService sees it.
type ExecutionStore interface {
	RunStore
	HistoryStore
	ExecutableStore
}

// ClusterFinder knows the clusters.
type ClusterFinder interface {
	Known(ctx context.Context) ([]state.Cluster, error)
	Find(ctx context.Context, name string) (state.Cluster, bool, error)
}

// EngineRegistry finds the engine of a cluster; engine.NotNow where the
// cluster has none at present.
type EngineRegistry interface {
	Engine(ctx context.Context, clusterName string) (engine.Engine, error)
}

// Waker tells the workers that a run was queued.
type Waker interface{ Wake() }

// ExecutionConfig is what an ExecutionService needs.
type ExecutionConfig struct {
	Store    ExecutionStore
	Clusters ClusterFinder
	Engines  EngineRegistry
	Waker    Waker
	Config   config.Config
	Metrics  metrics.Client
	Logger   *slog.Logger
	Clock    func() time.Time
}

// ExecutionService creates, stops and answers runs.
type ExecutionService struct {
	c         ExecutionConfig
	log       *slog.Logger
	reattempt *cached[float64]
	runtimes  *cachedBy[commandKey, float64]
	// definitions are as they were a while ago, see createOf.
	definitions *cachedBy[definitionKey, state.Definition]
	endings     *terminator
	// pick chooses one of n clusters.
	pick func(n int) int
}

// NewExecutionService makes the service. Close it.
func NewExecutionService(c ExecutionConfig) (*ExecutionService, error) {
	if c.Store == nil || c.Clusters == nil || c.Engines == nil || c.Waker == nil || c.Metrics == nil || c.Logger == nil || c.Clock == nil {
		return nil, errors.New("services: executions need a store, clusters, engines, a waker, metrics, a logger and a clock")
	}
	s := &ExecutionService{c: c, log: c.Logger, endings: newTerminator(c.Engines, c.Logger), pick: rand.IntN}
	s.reattempt = &cached[float64]{fetch: s.readReattemptRate, clock: c.Clock}
	s.runtimes = &cachedBy[commandKey, float64]{fetch: s.readRuntime, clock: c.Clock, most: mostRuntimes}
	s.definitions = &cachedBy[definitionKey, state.Definition]{fetch: s.readDefinition, clock: c.Clock, most: mostDefinitions}
	return s, nil
}

// Close waits for the engines that were asked to end runs, until ctx ends.
func (s *ExecutionService) Close(ctx context.Context) error { return s.endings.close(ctx) }

// Created is the answer to a request to run something.
type Created struct {
	Run state.Run
	// Warnings are sentences for the caller: what of the request was not
	// followed.
	Warnings []string
	// New is false where an earlier run with the same idempotence key is
	// answered, and for a dry run.
	New bool
}

// runnable is an executable that knows the command of a run that brings none.
type runnable interface {
	state.Executable
	GetExecutableCommand(req state.ExecutionRequest) (string, error)
}

// CreateByDefinitionID queues a run of a definition. Errors:
// state.MalformedInput, state.MissingResource.
func (s *ExecutionService) CreateByDefinitionID(ctx context.Context, id string, req *state.DefinitionExecutionRequest) (Created, error) {
	return s.createOf(ctx, definitionKey{id: id}, req)
}

// CreateByAlias queues a run of the definition with an alias. Errors as of
// CreateByDefinitionID.
func (s *ExecutionService) CreateByAlias(ctx context.Context, alias string, req *state.DefinitionExecutionRequest) (Created, error) {
	return s.createOf(ctx, definitionKey{alias: alias}, req)
}

// creation says how a run is to be created.
type creation struct {
	// strict refuses a cluster that is not known instead of ignoring it.
	strict bool
	// dry builds the run and stores nothing.
	dry bool
	// version is what the definition's must still be, see state.CreateRun.
	version string
}

func (s *ExecutionService) create(ctx context.Context, executable runnable, req state.ExecutionRequest, how creation) (Created, error) {
	run, err := s.constructBaseRunFromExecutable(ctx, executable, req)
	if err != nil {
		return Created{}, err
	}
	var warnings []string
	run.ClusterName, warnings, err = s.chooseCluster(ctx, executable, req.GetExecutionRequestCommon().ClusterName, run, how.strict)
	if err != nil {
		return Created{}, err
	}
	if how.dry {
		return Created{Run: run, Warnings: warnings}, nil
	}
	run.DefinitionVersion = how.version
	stored, isNew, err := s.c.Store.CreateRun(ctx, run)
	if errors.Is(err, state.ErrDefinitionChanged) {
		return Created{}, err
	}
	s.countEnqueue(run, err)
	if err != nil {
		return Created{}, err
	}
	if isNew {
		fault.Point(fault.InsertCommitted)
		s.c.Waker.Wake()
		audit(ctx, s.log, eventRunCreated, stored.User, "run_id", stored.RunID, "definition_id", stored.DefinitionID,
			"alias", stored.Alias, "cluster", stored.ClusterName, "engine", stored.Engine, "tier", stored.Tier)
	}
	return Created{Run: s.decorated(stored), Warnings: warnings, New: isNew}, nil
}

// constructBaseRunFromExecutable builds the run that a request asks for, all
// but its cluster. It is the one place where a command's hash is computed
// (ara.md section 1): after the command is final, from the command alone. What
// the client sent as a hash, and the description, play no part.
func (s *ExecutionService) constructBaseRunFromExecutable(ctx context.Context, executable runnable, req state.ExecutionRequest) (state.Run, error) {
	fields, err := s.resolve(executable, req)
	if err != nil {
		return state.Run{}, err
	}

	fields.CommandHash = nil
	if fields.Command != nil && *fields.Command != "" {
		fields.CommandHash = new(CommandHash(*fields.Command))
	}

	run := s.baseRun(executable, fields)
	run.RequestCustom = req.GetExecutionRequestCustom()
	lifecycle := s.chooseLifecycle(ctx, run, fields.NodeLifecycle)
	run.NodeLifecycle = &lifecycle
	run.ActiveDeadlineSeconds = fields.ActiveDeadlineSeconds
	if run.ActiveDeadlineSeconds == nil {
		run.ActiveDeadlineSeconds = new(s.defaultDeadline(lifecycle))
	}
	return run, nil
}

// CommandHash is the identity of a command: the lower-case hex MD5 of its
// bytes.
func CommandHash(command string) string {
	sum := md5.Sum([]byte(command)) //nolint:gosec // See the import.
	return hex.EncodeToString(sum[:])
}

// baseRun fills in everything that needs no decision any more.
func (s *ExecutionService) baseRun(executable runnable, fields state.ExecutionRequestCommon) state.Run {
	resources := executable.GetExecutableResources()
	id := *executable.GetExecutableID()
	run := state.Run{
		RunID: state.NewRunID(*fields.Engine), DefinitionID: id, Alias: id, ExecutableID: &id,
		ExecutableType: executable.GetExecutableType(), GroupName: state.TemplateGroupName,
		Image: resources.Image, RequiresDocker: resources.RequiresDocker,
		Status: state.StatusQueued, QueuedAt: new(s.c.Clock().UTC()), TaskType: state.DefaultTaskType,
		User: fields.OwnerID, Engine: *fields.Engine, SparkExtension: fields.SparkExtension,
		Command: fields.Command, CommandHash: fields.CommandHash,
		Memory: fields.Memory, CPU: fields.CPU, RequestedMemory: fields.Memory, RequestedCPU: fields.CPU,
		GPU: firstPositive(fields.GPU, resources.GPU), EphemeralStorage: firstPositive(fields.EphemeralStorage, resources.EphemeralStorage),
		IdempotenceKey: fields.IdempotenceKey, Arch: fields.Arch, Labels: fields.Labels,
		ServiceAccount: fields.ServiceAccount, Tier: *fields.Tier,
	}
	if d, ok := definitionOf(executable); ok {
		run.Alias, run.GroupName = d.Alias, d.GroupName
	}
	run.Description = run.Alias
	if fields.Description != nil {
		run.Description = *fields.Description
	}
	run.Env = s.runEnv(run, fields.Env)
	return run
}

func (s *ExecutionService) countEnqueue(run state.Run, err error) {
	m, result := metrics.EngineEKSEnqueue, metrics.StatusSuccess
	if run.Engine == state.EKSSparkEngine {
		m = metrics.EngineEMREnqueue
	}
	if err != nil {
		result = metrics.StatusFailure
	}
	s.c.Metrics.Increment(m, []string{
		metrics.Tag(metrics.TagEngine, run.Engine), metrics.Tag(metrics.TagCluster, run.ClusterName),
		metrics.Tag(metrics.TagStatus, result), metrics.Tag(metrics.TagTier, run.Tier),
	}, 1)
}
