package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

// ManifestsFolder is the folder of manifests within the data directory.
const ManifestsFolder = "manifests"

// Execute creates the attempt's Job and then commits the acceptance. The Job is named after the attempt, so there is
// one, however often and by however many servers this is tried.
func (e *Engine) Execute(ctx context.Context, s engine.Submission) error {
	sized, err := e.cfg.Sizer.Resources(ctx, s.Executable, s.Run, e.cfg.Capacity)
	if err != nil {
		return fmt.Errorf("size the run: %w", err)
	}
	j, err := job.Build(job.Input{
		Run: s.Run, Executable: s.Executable, Resources: sized.Resources, Capabilities: e.can, Settings: e.settings, Now: e.now(),
	})
	if err != nil {
		return err
	}
	if err := e.keepManifest(s.Run, j); err != nil {
		e.logger.Warn("cannot keep the manifest", "run_id", s.Run.RunID, "error", err)
	}
	e.registerTeam(ctx, job.Team(s.Run, sized.GPU))
	fault.Point(fault.ExecutePrepared)
	if sized, err = e.create(ctx, j, sized); err != nil {
		return err
	}
	fault.Point(fault.JobCreated)
	accepted, err := s.Accept(ctx, state.Acceptance{
		Size: sized.Size, Limit: sized.Limit, Namespace: &j.Namespace, ContainerName: &s.Run.RunID,
	})
	if err != nil {
		return fmt.Errorf("accept the run: %w", err)
	}
	if accepted {
		fault.Point(fault.PendingCommitted)
		e.cfg.Sizer.Report(ctx, s.Run, sized)
		return nil
	}
	// The run was stopped, or another worker has claimed it. That worker finds this very Job, so only the Job of a
	// stopped run is taken back.
	stopped, err := e.cfg.Store.StoppedAmong(ctx, []string{s.Run.RunID})
	if err != nil {
		return fmt.Errorf("read whether the run was stopped: %w", err)
	}
	if !slices.Contains(stopped, s.Run.RunID) {
		return nil
	}
	return e.remove(ctx, removal{namespace: e.namespaceOf(s.Run), jobName: job.Name(s.Run)})
}

// create makes the Job. If there is one already, made by an earlier try, another server or the program before, it
// returns the sizes of that one, which are no new decision.
func (e *Engine) create(ctx context.Context, j *batchv1.Job, given adapter.Sized) (adapter.Sized, error) {
	jobs := e.cfg.Kube.Client.BatchV1().Jobs(j.Namespace)
	_, err := jobs.Create(ctx, j, metav1.CreateOptions{})
	switch {
	case err == nil:
		return given, nil
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err):
		return given, engine.Rejected{Reason: err.Error()}
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		// A quota, or a right that somebody has to give us.
		return given, engine.NotNow{Reason: fmt.Sprintf("Cluster %s does not take the run now: %v", e.cfg.Cluster.Name, err)}
	case !apierrors.IsAlreadyExists(err):
		return given, fmt.Errorf("create the Job: %w", err)
	}
	there, err := jobs.Get(ctx, j.Name, metav1.GetOptions{})
	if err != nil {
		return given, fmt.Errorf("read the Job that exists: %w", err)
	}
	if there.DeletionTimestamp != nil {
		return given, engine.NotNow{Reason: fmt.Sprintf("A Job named %s is being deleted from cluster %s.", j.Name, e.cfg.Cluster.Name)}
	}
	found, err := job.ResourcesOf(there)
	if errors.Is(err, job.ErrNotOurs) {
		e.logger.Warn("the Job that exists has no sizes to read back", "run_id", j.Labels[job.LabelRunID], "job", j.Name)
		return given, nil
	}
	return adapter.Sized{Resources: found}, err
}

// registerTeam creates the team's ConfigMap, once per team and process. Whatever makes a team's nodes needs it. The run
// does not, so a failure is logged and tried again with the team's next run.
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

// manifestPath returns the file of an attempt's manifest. Its folder is named by the end of the run's id, which is
// random, so that no folder becomes large.
func (e *Engine) manifestPath(run state.Run) string {
	shard := run.RunID[max(0, len(run.RunID)-2):]
	return filepath.Join(e.cfg.DataDir, ManifestsFolder, shard, job.Name(run)+".yaml")
}

// keepManifest stores the Job as it is submitted, readable for this server alone: a run's environment may hold secrets.
func (e *Engine) keepManifest(run state.Run, j *batchv1.Job) error {
	body, err := job.ManifestYAML(j)
	if err != nil {
		return err
	}
	if filepath.Base(run.RunID) != run.RunID {
		return errors.New("the run's id cannot name a file")
	}
	path := e.manifestPath(run)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, body, 0o600)
}

// Manifest returns the attempt's Job as it was submitted: the file that this server kept, else what the cluster has.
func (e *Engine) Manifest(ctx context.Context, run state.Run) ([]byte, error) {
	body, err := os.ReadFile(e.manifestPath(run))
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return body, err
	}
	j, err := e.cfg.Kube.Client.BatchV1().Jobs(e.namespaceOf(run)).Get(ctx, job.Name(run), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, state.Missingf("Run %s has no manifest here.", run.RunID)
	}
	if err != nil {
		return nil, fmt.Errorf("read the Job: %w", err)
	}
	return job.ManifestYAML(j)
}
