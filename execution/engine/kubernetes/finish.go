package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
	"github.com/stitchfix/flotilla-os/state"
)

const (
	// finishDelay lets the last events and log lines arrive.
	finishDelay = 2 * time.Second
	// leastJobTTL is the shortest time that an ended Job is kept (kubernetes.md, The Job).
	leastJobTTL = time.Minute
	// logTries is how often the log of an ended attempt is requested. After the last the pod stays for as long as a Job
	// of which nothing was recorded.
	logTries = 3
)

// errNotYet has an ended attempt looked at again.
var errNotYet = errors.New("kubernetes: not yet")

// finish does what remains to be done for an attempt whose end is recorded: it fetches the log, records the last events
// and the greatest use, and gives the Job its time to live.
func (f *follower) finish(ctx context.Context, jobName string) error {
	a, ok := f.attempts.get(jobName)
	if !ok || a.finished || !a.over {
		return nil
	}
	if err := f.finishLog(ctx, &a); err != nil {
		return err
	}
	if a.events.dirty || a.peak != a.stored {
		u := state.RunUpdate{PodEvents: a.events.newest(f.cfg.EKS.MaxPodEvents)}
		addUse(&u, a.peak)
		if err := f.observer.Observe(ctx, engine.Observation{RunID: a.runID, Attempt: a.number, Update: u}); err != nil {
			f.outages.note(ctx, "record what runs do", err, "run_id", a.runID)
			return err
		}
		f.attempts.change(jobName, func(b *attempt) { b.stored, b.events.dirty = a.peak, false })
	}
	if err := f.mark(ctx, &a); err != nil {
		return err
	}
	f.attempts.change(jobName, func(b *attempt) {
		b.finished = true
		b.events.list = nil
	})
	return nil
}

// finishLog fetches what the archive lacks of an attempt's log. It gives up after logTries answers of the cluster; a
// cluster that does not answer is not counted.
func (f *follower) finishLog(ctx context.Context, a *attempt) error {
	if a.logOver {
		return nil
	}
	if a.started() {
		if a.alive() {
			return errNotYet
		}
		if err := f.logStreams.complete(ctx, logOf(a)); err != nil {
			if errors.As(err, new(apierrors.APIStatus)) {
				a.logTries++
				f.attempts.change(a.jobName, func(b *attempt) { b.logTries = a.logTries })
			}
			if a.logTries < logTries {
				f.logger.Debug("log not fetched yet", "run_id", a.runID, "error", err)
				return err
			}
			f.logger.Warn("cannot fetch the log", "run_id", a.runID, "error", err)
		}
	}
	f.attempts.change(a.jobName, func(b *attempt) { b.logOver = true })
	return nil
}

// mark annotates the Job as recorded, and lets Kubernetes delete it after eks_job_ttl. A Job whose log could not be
// fetched is not marked and so stays longer.
func (f *follower) mark(ctx context.Context, a *attempt) error {
	if a.job == nil || a.jobGone || a.job.DeletionTimestamp != nil || a.logTries >= logTries {
		return nil
	}
	if !job.Ended(a.job) {
		return errNotYet // the Job controller is about to end it
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"annotations": map[string]string{annotationRecorded: "true"}},
		"spec":     map[string]any{"ttlSecondsAfterFinished": int32(max(f.cfg.EKS.JobTTL, leastJobTTL).Seconds())},
	})
	if err != nil {
		return err
	}
	jobs := f.cfg.Kube.Client.BatchV1().Jobs(a.namespace)
	_, err = jobs.Patch(ctx, a.jobName, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		f.outages.note(ctx, "set the time to live of Jobs", err, "run_id", a.runID)
		return fmt.Errorf("set the Job's time to live: %w", err)
	}
	return nil
}
