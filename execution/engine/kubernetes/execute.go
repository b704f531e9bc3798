package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/state"
)

// Execute creates the attempt's Job and then commits the acceptance. The Job's name is the attempt's, so that however
// often this is tried, and by however many servers, there is one.
func (e *Engine) Execute(ctx context.Context, s engine.Submission) error {
	given, err := e.cfg.Sizer.Resources(ctx, s.Executable, s.Run)
	if err != nil {
		return fmt.Errorf("sizing the run: %w", err)
	}
	j, err := job.Build(job.Input{
		Run: s.Run, Executable: s.Executable, Resources: given, Capabilities: e.can, Settings: e.settings, Now: e.now(),
	})
	if err != nil {
		return err
	}
	if err := e.manifests.keep(s.Run, j); err != nil {
		e.logger.Warn("cannot keep the manifest", "run_id", s.Run.RunID, "error", err)
	}
	e.registerTeam(ctx, job.Team(s.Run, given.GPU))
	fault.Point(fault.ExecutePrepared)
	if given, err = e.create(ctx, j, given); err != nil {
		return err
	}
	fault.Point(fault.JobCreated)
	accepted, err := s.Accept(ctx, state.Acceptance{
		Size: given.Size, Limit: given.Limit,
		Namespace: &j.Namespace, ContainerName: &s.Run.RunID,
	})
	if err != nil {
		return fmt.Errorf("accepting the run: %w", err)
	}
	if !accepted {
		return e.takeBack(ctx, s.Run)
	}
	fault.Point(fault.PendingCommitted)
	return nil
}

// create makes the Job, or finds it made; it answers the sizes that the Job has.
func (e *Engine) create(ctx context.Context, j *batchv1.Job, given adapter.Resources) (adapter.Resources, error) {
	_, err := e.cfg.Kube.Client.BatchV1().Jobs(j.Namespace).Create(ctx, j, metav1.CreateOptions{})
	switch {
	case err == nil:
		return given, nil
	case apierrors.IsAlreadyExists(err):
		return e.readBack(ctx, j, given)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err):
		return given, engine.Rejected{Reason: err.Error()}
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		// A quota, or a right that somebody has to give us.
		return given, engine.NotNow{Reason: fmt.Sprintf("Cluster %s does not take the run now: %v", e.cfg.Cluster.Name, err)}
	}
	return given, fmt.Errorf("creating the Job: %w", err)
}

// readBack is what the Job of that name got when it was made: by an earlier try, another server, or the program before.
func (e *Engine) readBack(ctx context.Context, j *batchv1.Job, given adapter.Resources) (adapter.Resources, error) {
	there, err := e.cfg.Kube.Client.BatchV1().Jobs(j.Namespace).Get(ctx, j.Name, metav1.GetOptions{})
	if err != nil {
		return given, fmt.Errorf("reading the Job that exists: %w", err)
	}
	if there.DeletionTimestamp != nil {
		return given, engine.NotNow{Reason: fmt.Sprintf("A Job named %s is being deleted from cluster %s.", j.Name, e.cfg.Cluster.Name)}
	}
	found, err := job.ResourcesOf(there)
	if errors.Is(err, job.ErrNotOurs) {
		e.logger.Warn("the Job that exists has no sizes to read back", "run_id", j.Labels[job.LabelRunID], "job", j.Name)
		return given, nil
	}
	return found, err
}

// takeBack removes the Job of a run that was stopped before it was accepted. A run that another worker has claimed
// meanwhile keeps it: that worker finds the same Job.
func (e *Engine) takeBack(ctx context.Context, run state.Run) error {
	stopped, err := e.cfg.Store.StoppedAmong(ctx, []string{run.RunID})
	if err != nil {
		return fmt.Errorf("asking whether the run was stopped: %w", err)
	}
	if !slices.Contains(stopped, run.RunID) {
		return nil
	}
	return e.remove(ctx, removal{namespace: e.namespaceOf(run), jobName: job.Name(run)})
}

// registerTeam keeps the team's ConfigMap, once per team and process. What makes a team's nodes needs it, the run does
// not, so that a failure is logged and tried again with the team's next run.
func (e *Engine) registerTeam(ctx context.Context, team string) {
	if team == "" {
		return
	}
	if _, known := e.teams.Load(team); known {
		return
	}
	wanted := job.TeamConfigMap(team, e.cfg.EKS.JobNamespace)
	_, err := e.cfg.Kube.Client.CoreV1().ConfigMaps(wanted.Namespace).Create(ctx, wanted, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		e.logger.Warn("cannot register the team", "team", team, "error", err)
		return
	}
	e.teams.Store(team, true)
}
