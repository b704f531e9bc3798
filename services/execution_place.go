package services

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/stitchfix/flotilla-os/state"
)

// errNoCluster says that nothing names a cluster and none is configured.
var errNoCluster = state.MalformedInput{Message: "no cluster takes this run: name one in the request, or have eks_cluster_default configured"}

// chooseCluster finds where a run goes (rest-api.md, "Cluster choice"): the
// first that applies of the request's cluster, an active cluster of the run's
// tier, the definition's target cluster, and the configured defaults. The
// warnings say what of the request was not followed.
func (s *ExecutionService) chooseCluster(ctx context.Context, executable state.Executable, asked string, run state.Run, strict bool) (string, []string, error) {
	warning, err := s.checkAsked(ctx, asked, strict)
	if err != nil {
		return "", nil, err
	}
	if asked != "" && warning == "" {
		return asked, nil, nil
	}
	var warnings []string
	if warning != "" {
		s.log.WarnContext(ctx, "cluster of the request ignored", "run_id", run.RunID, "reason", warning)
		warnings = []string{warning}
	}
	rules := []func() (string, error){
		func() (string, error) { return s.tierCluster(ctx, run.Tier) },
		func() (string, error) { return s.targetCluster(ctx, executable) },
		func() (string, error) { return s.defaultCluster(run), nil },
	}
	for _, rule := range rules {
		name, err := rule()
		if err != nil {
			return "", nil, err
		}
		if name != "" {
			return name, warnings, nil
		}
	}
	return "", nil, errNoCluster
}

// checkAsked says why the cluster of a request cannot be used: as a warning,
// or, where the request is strict, as an error.
func (s *ExecutionService) checkAsked(ctx context.Context, name string, strict bool) (warning string, err error) {
	if name == "" {
		return "", nil
	}
	cluster, ok, err := s.c.Clusters.Find(ctx, name)
	if err != nil {
		return "", err
	}
	switch {
	case !ok:
		warning = fmt.Sprintf("cluster %q is not known", shorten(name))
	case cluster.Status == state.ClusterOffline:
		warning = fmt.Sprintf("cluster %q is offline", name)
	default:
		return "", nil
	}
	if strict {
		return "", state.MalformedInput{Message: warning}
	}
	return warning + " and was ignored", nil
}

// tierCluster is a random active cluster that takes runs of a tier, empty
// where there is none.
func (s *ExecutionService) tierCluster(ctx context.Context, tier string) (string, error) {
	known, err := s.c.Clusters.Known(ctx)
	if err != nil {
		return "", err
	}
	var names []string
	for _, c := range known {
		if c.Status == state.ClusterActive && slices.Contains(c.AllowedTiers, tier) {
			names = append(names, c.Name)
		}
	}
	if len(names) == 0 {
		return "", nil
	}
	return names[s.pick(len(names))], nil
}

// targetCluster is the cluster that the definition names, empty where it names
// none.
func (s *ExecutionService) targetCluster(ctx context.Context, executable state.Executable) (string, error) {
	d, ok := definitionOf(executable)
	if !ok || present(d.TargetCluster) == nil {
		return "", nil
	}
	_, found, err := s.c.Clusters.Find(ctx, *d.TargetCluster)
	if err == nil && !found {
		err = state.Malformedf("the definition's target_cluster %q is not known", *d.TargetCluster)
	}
	return *d.TargetCluster, err
}

func (s *ExecutionService) defaultCluster(run state.Run) string {
	eks, local := s.c.Config.EKS, s.c.Config.Local
	switch {
	case run.GPU != nil && eks.GPUClusterDefault != "":
		return eks.GPUClusterDefault
	case eks.ClusterDefault != "":
		return eks.ClusterDefault
	case local.Enabled:
		return local.ClusterName
	}
	return ""
}

// chooseLifecycle is where a run's node may come from (kubernetes.md,
// "Lifecycle choice at creation"): a GPU is never spot, and spot becomes
// on-demand where it would likely be interrupted or where that would cost much.
// History that cannot be read changes nothing: it must not hold a run up.
func (s *ExecutionService) chooseLifecycle(ctx context.Context, run state.Run, asked *string) string {
	if run.GPU != nil || (asked != nil && *asked == state.OndemandLifecycle) {
		return state.OndemandLifecycle
	}
	if run.Engine != state.EKSEngine {
		return state.SpotLifecycle
	}
	eks := s.c.Config.EKS
	if eks.SpotOverride {
		return state.OndemandLifecycle
	}
	if share, ok := s.history(ctx, run, s.reattemptShare); ok && share >= eks.SpotReattemptOverride {
		return state.OndemandLifecycle
	}
	if minutes, ok := s.history(ctx, run, s.runtime); ok && minutes > float64(eks.SpotThresholdMinutes) {
		return state.OndemandLifecycle
	}
	return state.SpotLifecycle
}

// history asks one question of the past; false where it has no answer.
func (s *ExecutionService) history(ctx context.Context, run state.Run, ask func(context.Context, state.Run) (float64, error)) (float64, bool) {
	value, err := ask(ctx, run)
	if err != nil && !errors.As(err, new(state.MissingResource)) {
		s.log.WarnContext(ctx, "history for the lifecycle choice not read", "run_id", run.RunID, "error", err)
	}
	return value, err == nil
}

func (s *ExecutionService) reattemptShare(ctx context.Context, _ state.Run) (float64, error) {
	return s.reattempt.get(ctx, cacheAge)
}

// readReattemptRate is what the cache behind reattemptShare holds; no runs are
// kept as a share of 0, so that they are not looked for again each time.
func (s *ExecutionService) readReattemptRate(ctx context.Context) (float64, error) {
	share, err := s.c.Store.ReattemptRate(ctx)
	if errors.As(err, new(state.MissingResource)) {
		return 0, nil
	}
	return share, err
}

func (s *ExecutionService) runtime(ctx context.Context, run state.Run) (float64, error) {
	if run.CommandHash == nil {
		return 0, state.Missingf("a run without a command has no history")
	}
	return s.runtimes.get(ctx, commandKey{*run.ExecutableID, *run.CommandHash}, cacheAge)
}

// commandKey is a command of an executable.
type commandKey struct{ executableID, commandHash string }

// readRuntime is what the cache behind runtime holds. Many runs of one command
// are often submitted at once, and a lookup for each would take about as long as
// storing it; a command that never ran is kept as one of no length.
func (s *ExecutionService) readRuntime(ctx context.Context, command commandKey) (float64, error) {
	minutes, err := s.c.Store.EstimateRuntime(ctx, command.executableID, command.commandHash)
	if errors.As(err, new(state.MissingResource)) {
		return 0, nil
	}
	return minutes, err
}

// defaultDeadline is how long a run may run, in seconds, where the request
// does not say.
func (s *ExecutionService) defaultDeadline(lifecycle string) int64 {
	deadline := s.c.Config.Deadlines.Spot
	if lifecycle == state.OndemandLifecycle {
		deadline = s.c.Config.Deadlines.OnDemand
	}
	return int64(deadline.Seconds())
}
