// Package services implements what the product does: it checks requests, decides what a run is made of (command,
// identity, place, lifecycle), and reads runs, logs, definitions, templates, clusters and workers.
//
// It contains no HTTP (package flotilla) and no SQL (package state), and executes nothing (package execution): the submit
// worker picks up a stored run.
package services

import (
	"context"
	"crypto/md5" //nolint:gosec // The identity of a command, not a secret: existing rows and clients hold MD5.
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"time"

	"al.essio.dev/pkg/shellescape"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// Variables that Flotilla itself sets in every run, beside the configured owner variable.
const (
	envServerMode  = "FLOTILLA_SERVER_MODE"
	envRunID       = "FLOTILLA_RUN_ID"
	envRoleSession = "AWS_ROLE_SESSION_NAME"
)

// The architectures of a run.
const (
	archARM = "arm64"
	archAMD = "amd64"
)

// ExecutionStore is the database as the ExecutionService uses it.
type ExecutionStore interface {
	GetDefinition(ctx context.Context, id string) (state.Definition, error)
	GetDefinitionByAlias(ctx context.Context, alias string) (state.Definition, error)
	GetTemplate(ctx context.Context, id string) (state.Template, error)

	// CreateRun stores a run. It returns false and the earlier run if one has the same idempotence key.
	CreateRun(ctx context.Context, r state.Run) (state.Run, bool, error)
	GetRun(ctx context.Context, id string) (state.Run, error)
	ListRuns(ctx context.Context, o state.ListOptions) (state.RunList, error)
	ListChildRuns(ctx context.Context, parentID string) ([]string, error)
	// StopRun returns the run as it is now and whether this call stopped it.
	StopRun(ctx context.Context, id, reason string) (state.Run, bool, error)
	// SelfReportRun returns the run as it is now and whether the report moved it.
	SelfReportRun(ctx context.Context, id string, r state.SelfReport) (state.Run, bool, error)

	// EstimateRuntime returns the P95 runtime of a command in the last 7 days, in minutes; state.MissingResource if it
	// never ran.
	EstimateRuntime(ctx context.Context, executableID, commandHash string) (float64, error)
	// ReattemptRate returns the share (0 to 1) of multi-attempt spot runs of the last 18 minutes; state.MissingResource
	// if there were none.
	ReattemptRate(ctx context.Context) (float64, error)
}

// ClusterFinder returns the clusters, see ClusterService.Known.
type ClusterFinder interface {
	Known(ctx context.Context, names ...string) ([]state.Cluster, error)
}

// EngineRegistry returns the engine of a cluster; engine.NotNow if the cluster has none at present.
type EngineRegistry interface {
	Engine(ctx context.Context, key state.EngineKey) (engine.Engine, error)
}

// ExecutionConfig is what an ExecutionService needs.
type ExecutionConfig struct {
	Store    ExecutionStore
	Clusters ClusterFinder
	Engines  EngineRegistry
	// Waker wakes the workers when a run was queued.
	Waker   interface{ Wake() }
	Metrics metrics.Client
	Logger  *slog.Logger
	Clock   func() time.Time

	// Mode is given to every run as FLOTILLA_SERVER_MODE.
	Mode string
	// OwnerIDVar is the variable by which a run learns its owner; reserved.
	OwnerIDVar string
	// TierDefault is the tier of a run whose request names none.
	TierDefault string
	// DefaultCluster takes the runs that nothing else places, GPUDefaultCluster those of them with a GPU; empty for none.
	DefaultCluster, GPUDefaultCluster string
	// Spot decides when spot becomes on-demand.
	Spot SpotPolicy
	// Deadlines are those of runs whose request names none.
	Deadlines config.Deadlines
	// MetricsServerURI is the page that shows a run's metrics; empty for none.
	MetricsServerURI string
}

// SpotPolicy decides when a run that may use spot nodes gets an on-demand one (kubernetes.md, "Lifecycle choice at
// creation").
type SpotPolicy struct {
	// Never makes every run on-demand.
	Never bool
	// ReattemptShare is the share (0 to 1) of multi-attempt runs from which spot becomes on-demand.
	ReattemptShare float64
	// LongMinutes is the P95 runtime in minutes beyond which a command runs on-demand.
	LongMinutes int
}

// ExecutionService creates, stops and reads runs.
type ExecutionService struct {
	c   ExecutionConfig
	log *slog.Logger
	// definitions, reattempts and runtimes are what submitting reads, at most cacheAge old. The first is keyed by id and
	// by alias, the last by executable and command.
	definitions *cache[state.Definition]
	reattempts  *cache[float64]
	runtimes    *cache[float64]
	endings     *terminator
	// pick chooses one of n clusters.
	pick func(n int) int
}

// The caches are bounded in number, for memory: a definition may hold a command of 128 KiB.
const (
	maxRuntimes    = 1000
	maxDefinitions = 250
)

// NewExecutionService returns the service. Close it.
func NewExecutionService(c ExecutionConfig) (*ExecutionService, error) {
	if c.Store == nil || c.Clusters == nil || c.Engines == nil || c.Waker == nil || c.Metrics == nil || c.Logger == nil || c.Clock == nil {
		return nil, errors.New("services: executions need a store, clusters, engines, a waker, metrics, a logger and a clock")
	}
	return &ExecutionService{
		c: c, log: c.Logger, endings: newTerminator(c.Engines, c.Logger), pick: rand.IntN,
		definitions: newCache[state.Definition](c.Clock, maxDefinitions, 0),
		reattempts:  newCache[float64](c.Clock, 1, cacheAge),
		runtimes:    newCache[float64](c.Clock, maxRuntimes, cacheAge),
	}, nil
}

// Close waits until the engines have ended the runs that were stopped, or until ctx ends.
func (s *ExecutionService) Close(ctx context.Context) error { return s.endings.close(ctx) }

// Created is the result of a request to run something.
type Created struct {
	Run state.Run
	// Warnings are sentences for the client about what of the request was ignored.
	Warnings []string
	// New is false if an earlier run has the same idempotence key, and for a dry run.
	New bool
}

// DefinitionRef names a definition by its alias, or by its id if the alias is empty.
type DefinitionRef struct{ ID, Alias string }

// CreateFromDefinition queues a run of a definition. It uses the definition as it was up to cacheAge ago, and the INSERT
// checks that it has not changed, which saves a query for every run. If it has changed, or if the request does not fit
// the cached definition, nothing is stored and the definition is read again. Errors: state.MalformedInput,
// state.MissingResource.
func (s *ExecutionService) CreateFromDefinition(ctx context.Context, ref DefinitionRef, req *state.DefinitionExecutionRequest) (Created, error) {
	key := "id " + ref.ID
	read := func(ctx context.Context) (state.Definition, error) { return s.c.Store.GetDefinition(ctx, ref.ID) }
	if ref.Alias != "" {
		key = "alias " + ref.Alias
		read = func(ctx context.Context) (state.Definition, error) {
			return s.c.Store.GetDefinitionByAlias(ctx, ref.Alias)
		}
	}
	if d, err := s.definitions.get(ctx, key, cacheAge, read); err == nil {
		created, err := s.create(ctx, d, req, d.Version, false)
		if !errors.Is(err, state.ErrDefinitionChanged) && !errors.As(err, new(state.MalformedInput)) {
			return created, err
		}
		s.definitions.drop(key)
	}
	d, err := read(ctx)
	if err != nil {
		return Created{}, err
	}
	return s.create(ctx, d, req, "", false)
}

// runnable is an executable that returns the command of a run whose request has none.
type runnable interface {
	state.Executable
	GetExecutableCommand(req state.ExecutionRequest) (string, error)
}

// create makes a run in this order: request, command, hash, place, store. The definition must still have version, if one
// is given; see state.CreateRun. A dry run is built and not stored. The functions below follow in the order of the calls.
func (s *ExecutionService) create(ctx context.Context, executable runnable, req state.ExecutionRequest, version string, dry bool) (Created, error) {
	run, err := s.constructBaseRunFromExecutable(ctx, executable, req)
	if err != nil {
		return Created{}, err
	}
	warnings, err := s.place(ctx, &run, executable, req.GetExecutionRequestCommon())
	if err != nil {
		return Created{}, err
	}
	if dry {
		return Created{Run: run, Warnings: warnings}, nil
	}
	run.DefinitionVersion = version
	stored, isNew, err := s.c.Store.CreateRun(ctx, run)
	if errors.Is(err, state.ErrDefinitionChanged) {
		return Created{}, err
	}
	m, result := metrics.EngineEKSEnqueue, metrics.StatusSuccess
	if run.Engine == state.EKSSparkEngine {
		m = metrics.EngineEMREnqueue
	}
	if err != nil {
		result = metrics.StatusFailure
	}
	s.count(m, run, result)
	if err != nil {
		return Created{}, err
	}
	created := Created{Run: s.decorated(stored), Warnings: warnings, New: isNew}
	if isNew {
		fault.Point(fault.InsertCommitted)
		s.c.Waker.Wake()
		audit(ctx, s.log, eventRunCreated, stored.User, "run_id", stored.RunID, "definition_id", stored.DefinitionID,
			"alias", stored.Alias, "cluster", stored.ClusterName, "engine", stored.Engine, "tier", stored.Tier)
	}
	return created, nil
}

// constructBaseRunFromExecutable builds the run of a request, except for its cluster. It is the one place that computes a
// command's hash (ara.md section 1): after the command is final, from the command alone. It ignores the hash that a
// client sends, and the description.
func (s *ExecutionService) constructBaseRunFromExecutable(ctx context.Context, executable runnable, req state.ExecutionRequest) (state.Run, error) {
	fields, err := s.resolve(executable, req)
	if err != nil {
		return state.Run{}, err
	}
	resources := executable.GetExecutableResources()
	gpu := firstPositive(fields.GPU, resources.GPU)

	fields.CommandHash = nil
	if fields.Command != nil && *fields.Command != "" {
		fields.CommandHash = new(CommandHash(*fields.Command))
	}

	id := *executable.GetExecutableID()
	run := state.Run{
		RunID: state.NewRunID(*fields.Engine), DefinitionID: id, Alias: id, ExecutableID: &id,
		ExecutableType: executable.GetExecutableType(), GroupName: state.TemplateGroupName,
		Image: resources.Image, RequiresDocker: resources.RequiresDocker,
		Status: state.StatusQueued, QueuedAt: new(s.c.Clock().UTC()), TaskType: state.DefaultTaskType,
		User: fields.OwnerID, Engine: *fields.Engine, SparkExtension: fields.SparkExtension,
		Command: fields.Command, CommandHash: fields.CommandHash,
		Memory: fields.Memory, CPU: fields.CPU, RequestedMemory: fields.Memory, RequestedCPU: fields.CPU,
		GPU: gpu, EphemeralStorage: firstPositive(fields.EphemeralStorage, resources.EphemeralStorage),
		IdempotenceKey: fields.IdempotenceKey, Arch: fields.Arch, Labels: fields.Labels,
		ServiceAccount: fields.ServiceAccount, Tier: *fields.Tier, RequestCustom: req.GetExecutionRequestCustom(),
	}
	if d, ok := definitionOf(executable); ok {
		run.Alias, run.GroupName = d.Alias, d.GroupName
	}
	run.Description = run.Alias
	if fields.Description != nil {
		run.Description = *fields.Description
	}
	// Flotilla's variables come first, then the request's in their order. The definition's are merged in the container.
	run.Env = append(state.EnvList{
		{Name: envServerMode, Value: s.c.Mode}, {Name: envRunID, Value: run.RunID},
		{Name: envRoleSession, Value: run.RunID}, {Name: s.c.OwnerIDVar, Value: run.User},
	}, fields.Env...)
	run.NodeLifecycle = new(s.chooseLifecycle(ctx, run, fields.NodeLifecycle))
	run.ActiveDeadlineSeconds = fields.ActiveDeadlineSeconds
	if run.ActiveDeadlineSeconds == nil {
		deadline := s.c.Deadlines.Spot
		if *run.NodeLifecycle == state.OndemandLifecycle {
			deadline = s.c.Deadlines.OnDemand
		}
		run.ActiveDeadlineSeconds = new(int64(deadline.Seconds()))
	}
	return run, nil
}

// resolve checks a request and makes every field final that follows from the request and the executable alone: engine,
// command and tier among them. Texts that are empty become absent.
func (s *ExecutionService) resolve(executable runnable, req state.ExecutionRequest) (state.ExecutionRequestCommon, error) {
	fields := state.ExecutionRequestCommon{}
	if common := req.GetExecutionRequestCommon(); common != nil {
		fields = *common
	}
	var f faults
	f.request(fields)
	fields.Engine = f.engine(fields)
	if err := f.err(); err != nil {
		return fields, err
	}

	// The command is the request's; without one the executable's, or for a Spark run the canonical spark-submit line.
	fields.Command = present(fields.Command)
	switch {
	case fields.Command != nil:
	case *fields.Engine == state.EKSSparkEngine:
		fields.Command = present(new(sparkSubmitLine(fields.SparkExtension)))
	default:
		command, err := executable.GetExecutableCommand(req)
		if err != nil {
			return fields, err
		}
		fields.Command = present(&command)
	}
	fields.Env = withoutReserved(fields.Env, s.c.OwnerIDVar)
	f.command(fields.Command, fields.Env, executable.GetExecutableResources().Env)

	fields.Memory, fields.CPU = firstPositive(fields.Memory), firstPositive(fields.CPU)
	fields.Description, fields.IdempotenceKey = present(fields.Description), present(fields.IdempotenceKey)
	fields.ServiceAccount, fields.Arch = present(fields.ServiceAccount), present(fields.Arch)
	if present(fields.Tier) == nil {
		fields.Tier = &s.c.TierDefault
	}
	if fields.Arch != nil && *fields.Arch != archARM {
		fields.Arch = new(archAMD)
	}
	return fields, f.err()
}

// request checks the fields of a request for a run.
func (f *faults) request(r state.ExecutionRequestCommon) {
	f.text("owner_id", r.OwnerID, maxName)
	f.sizes(r.Memory, r.CPU, r.GPU, r.EphemeralStorage)
	f.number("active_deadline_seconds", r.ActiveDeadlineSeconds, 1, maxAmount)
	if r.NodeLifecycle != nil && !slices.Contains(state.NodeLifecycles, *r.NodeLifecycle) {
		f.addf("node_lifecycle must be one of %s, not %q", listed(state.NodeLifecycles), *r.NodeLifecycle)
	}
	f.optionalName("idempotence_key", r.IdempotenceKey)
	f.optionalName("arch", r.Arch)
	f.optionalName("service_account", r.ServiceAccount)
	f.optionalName("tier", r.Tier)
	f.env(r.Env)
	// Label keys follow the rules of Kubernetes, which would refuse the whole Job for one of them; values are made valid
	// later.
	for _, key := range slices.Sorted(maps.Keys(r.Labels)) {
		if wrong := validation.IsQualifiedName(key); len(wrong) > 0 {
			f.addf("labels: %q is not a valid label key: %s", key, strings.Join(wrong, "; "))
		}
	}
	if r.SparkExtension != nil && r.SparkExtension.SparkSubmitJobDriver != nil {
		driver := r.SparkExtension.SparkSubmitJobDriver
		f.number("spark_submit_job_driver.num_executors", driver.NumExecutors, 0, maxAmount)
		f.number("spark_submit_job_driver.executor_memory", driver.ExecutorMemory, 0, maxAmount)
	}
}

// engine returns the engine of a request. Old clients send ecs for a container job, or for a Spark job if there is a
// spark_extension.
func (f *faults) engine(r state.ExecutionRequestCommon) *string {
	spark := r.SparkExtension != nil
	switch engine := r.Engine; {
	case engine == nil || *engine == "" || *engine == "ecs":
		if spark {
			return new(state.EKSSparkEngine)
		}
		return new(state.EKSEngine)
	case *engine == state.EKSSparkEngine && !spark:
		f.addf("engine eks-spark needs a spark_extension")
	case !slices.Contains(state.Engines, *engine):
		f.addf("engine must be one of %s, not %q", listed(state.Engines), *engine)
	}
	return r.Engine
}

// sparkSubmitLine returns the canonical form of what a Spark run submits, quoted for a shell; empty if there is no entry
// point. It leaves every --conf out: ARA changes those, and the identity of a run must not change with them.
func sparkSubmitLine(ext *state.SparkExtension) string {
	driver := ext.SparkSubmitJobDriver
	if driver == nil || driver.EntryPoint == nil || *driver.EntryPoint == "" {
		return ""
	}
	words := []string{"spark-submit"}
	if driver.Class != nil && *driver.Class != "" {
		words = append(words, "--class", *driver.Class)
	}
	for _, list := range []struct {
		flag  string
		files []string
	}{{"--py-files", driver.PyFiles}, {"--jars", driver.Jars}, {"--files", driver.Files}} {
		if len(list.files) > 0 {
			words = append(words, list.flag, strings.Join(list.files, ","))
		}
	}
	words = append(words, *driver.EntryPoint)
	return shellescape.QuoteCommand(append(words, driver.EntryPointArguments...))
}

// withoutReserved drops the variables that Flotilla sets itself: old clients send a run's environment back when they
// run it again.
func withoutReserved(env state.EnvList, ownerVar string) state.EnvList {
	reserved := []string{envServerMode, envRunID, envRoleSession, ownerVar}
	return slices.DeleteFunc(slices.Clone(env), func(v state.EnvVar) bool { return slices.Contains(reserved, v.Name) })
}

// definitionOf returns the definition that an executable is, if it is one. A pointer to one is an executable too.
func definitionOf(executable state.Executable) (state.Definition, bool) {
	switch d := executable.(type) {
	case state.Definition:
		return d, true
	case *state.Definition:
		return *d, true
	}
	return state.Definition{}, false
}

// CommandHash returns the identity of a command: the lower-case hex MD5 of its bytes.
func CommandHash(command string) string {
	sum := md5.Sum([]byte(command)) //nolint:gosec // See the import.
	return hex.EncodeToString(sum[:])
}

// firstPositive returns the first number that is given and above 0, or nil.
func firstPositive(numbers ...*int64) *int64 {
	for _, n := range numbers {
		if n != nil && *n > 0 {
			return n
		}
	}
	return nil
}

// chooseLifecycle returns the lifecycle of a run's node: a GPU is never spot, and spot becomes on-demand if it would
// likely be interrupted or if that would cost much. A history that cannot be read changes nothing and is not read again
// for cacheAge, so that it does not delay runs.
func (s *ExecutionService) chooseLifecycle(ctx context.Context, run state.Run, requested *string) string {
	switch {
	case run.GPU != nil || requested != nil && *requested == state.OndemandLifecycle:
		return state.OndemandLifecycle
	case run.Engine != state.EKSEngine:
		return state.SpotLifecycle
	case s.c.Spot.Never:
		return state.OndemandLifecycle
	}
	share, ok := s.history(ctx, s.reattempts, "", s.c.Store.ReattemptRate)
	if ok && share >= s.c.Spot.ReattemptShare {
		return state.OndemandLifecycle
	}
	if run.CommandHash == nil {
		return state.SpotLifecycle
	}
	minutes, ok := s.history(ctx, s.runtimes, *run.ExecutableID+" "+*run.CommandHash, func(ctx context.Context) (float64, error) {
		return s.c.Store.EstimateRuntime(ctx, *run.ExecutableID, *run.CommandHash)
	})
	if ok && minutes > float64(s.c.Spot.LongMinutes) {
		return state.OndemandLifecycle
	}
	return state.SpotLifecycle
}

// history reads one fact of the past through its cache, 0 if there is none; false if it cannot be read now. Many runs of
// one command are often submitted at once, and a lookup for each would take about as long as storing it.
func (s *ExecutionService) history(ctx context.Context, from *cache[float64], key string, read func(context.Context) (float64, error)) (float64, bool) {
	value, err := from.get(ctx, key, cacheAge, func(ctx context.Context) (float64, error) {
		value, err := read(ctx)
		if errors.As(err, new(state.MissingResource)) {
			return 0, nil
		}
		if err != nil {
			s.log.WarnContext(ctx, "cannot read the history for the lifecycle choice", "error", err, "again_in", cacheAge.String())
		}
		return value, err
	})
	return value, err == nil
}

// place sets the cluster of a run (rest-api.md, "Cluster choice"): the first that applies of the request's cluster, a
// random active cluster of the run's tier, the definition's target cluster, and the configured defaults. The warnings
// are about a cluster of the request that was ignored.
func (s *ExecutionService) place(ctx context.Context, run *state.Run, executable state.Executable, req *state.ExecutionRequestCommon) ([]string, error) {
	target := ""
	if d, ok := definitionOf(executable); ok && d.TargetCluster != nil {
		target = *d.TargetCluster
	}
	known, err := s.c.Clusters.Known(ctx, req.ClusterName, target)
	if err != nil {
		return nil, err
	}
	clusters := map[string]state.Cluster{}
	var ofTier []string
	for _, c := range known {
		clusters[c.Name] = c
		if c.Status == state.ClusterActive && slices.Contains(c.AllowedTiers, run.Tier) {
			ofTier = append(ofTier, c.Name)
		}
	}

	var warnings []string
	if name := req.ClusterName; name != "" {
		c, known := clusters[name]
		var problem string
		switch {
		case !known:
			problem = fmt.Sprintf("cluster %q is not known", state.Shorten(name, maxSentence))
		case c.Status == state.ClusterOffline, c.Status != state.ClusterActive && !req.ClusterRequired:
			problem = fmt.Sprintf("cluster %q is %s", name, inStatus(c.Status))
		default:
			run.ClusterName = name
			return nil, nil
		}
		if req.ClusterRequired {
			return nil, state.MalformedInput{Message: problem}
		}
		warnings = []string{problem + " and was ignored"}
		s.log.InfoContext(ctx, "cluster of the request ignored", "run_id", run.RunID, "reason", problem)
	}
	switch {
	case len(ofTier) > 0:
		run.ClusterName = ofTier[s.pick(len(ofTier))]
	case target != "":
		if _, known := clusters[target]; !known {
			return nil, state.Malformedf("the definition's target_cluster %q is not known", target)
		}
		run.ClusterName = target
	case run.GPU != nil && s.c.GPUDefaultCluster != "":
		run.ClusterName = s.c.GPUDefaultCluster
	case s.c.DefaultCluster != "":
		run.ClusterName = s.c.DefaultCluster
	default:
		return nil, state.Malformedf("no cluster takes this run: name one in the request, or configure eks_cluster_default")
	}
	return warnings, nil
}

// inStatus returns the words for a cluster that is in a status.
func inStatus(status state.ClusterStatus) string {
	if status == state.ClusterMaintenance {
		return "in maintenance"
	}
	return string(status)
}

// count counts an operation on a run by its result.
func (s *ExecutionService) count(m metrics.Metric, run state.Run, result string) {
	s.c.Metrics.Increment(m, []string{
		metrics.Tag(metrics.TagEngine, run.Engine), metrics.Tag(metrics.TagCluster, run.ClusterName),
		metrics.Tag(metrics.TagStatus, result), metrics.Tag(metrics.TagTier, run.Tier),
	}, 1)
}

// metricsMargin widens the time that a run's metrics page shows.
const metricsMargin = time.Minute

// decorated returns the run with the page of its metrics, if one is configured and the run has started.
func (s *ExecutionService) decorated(run state.Run) state.Run {
	base := s.c.MetricsServerURI
	if base == "" || run.Engine != state.EKSEngine || run.StartedAt == nil {
		return run
	}
	end := s.c.Clock()
	if run.FinishedAt != nil {
		end = *run.FinishedAt
	}
	run.MetricsURI = new(fmt.Sprintf("%s&tpl_var_flotilla_run_id=%s&from_ts=%d&to_ts=%d&live=true", base, url.QueryEscape(run.RunID),
		run.StartedAt.Add(-metricsMargin).UnixMilli(), end.Add(metricsMargin).UnixMilli()))
	return run
}
