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

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
	"github.com/stitchfix/flotilla-os/state"
)

const (
	// finishDelay lets the last events and log lines arrive.
	finishDelay = 2 * time.Second
	// leastJobTTL is the shortest time that an ended Job is kept (kubernetes.md, The Job).
	leastJobTTL = time.Minute
	// logTries is how often the log of an ended attempt is asked for; the pod then stays for as long as Jobs of which
	// nothing was recorded do.
	logTries = 3
)

// errNotYet has an ending looked at again.
var errNotYet = errors.New("kubernetes: not yet")

// finish does what is left of an attempt whose end is recorded: its log is fetched, its last events and its greatest
// use are recorded, and its Job is marked and given its time to live.
func (f *follower) finish(ctx context.Context, jobName string) error {
	a, ok := f.board.get(jobName)
	if !ok || a.finished || !a.over {
		return nil
	}
	if err := f.finishLog(ctx, &a); err != nil {
		return err
	}
	if err := f.finishDetails(ctx, &a); err != nil {
		return err
	}
	if err := f.mark(ctx, &a); err != nil {
		return err
	}
	f.board.change(jobName, func(a *attempt) {
		a.finished = true
		a.events.list = nil
	})
	return nil
}

func (f *follower) finishLog(ctx context.Context, a *attempt) error {
	if a.logOver {
		return nil
	}
	if a.started() {
		if a.alive() {
			return errNotYet
		}
		err := f.logbook.complete(ctx, f.placeOf(a))
		// Only an answer of the cluster's counts as a try.
		answered := errors.As(err, new(apierrors.APIStatus))
		if err != nil && (!answered || a.logTries+1 < logTries) {
			if answered {
				f.board.change(a.jobName, func(b *attempt) { b.logTries++ })
			}
			f.logger.Debug("log not fetched yet", "run_id", a.runID, "error", err)
			return err
		}
		if err != nil {
			f.logger.Warn("the log could not be fetched", "run_id", a.runID, "error", err)
			f.board.change(a.jobName, func(b *attempt) { b.logOver, b.logTries = true, logTries })
			a.logTries = logTries
			return nil
		}
	}
	f.board.change(a.jobName, func(b *attempt) { b.logOver = true })
	return nil
}

func (f *follower) finishDetails(ctx context.Context, a *attempt) error {
	if !a.events.dirty && a.peak == a.stored {
		return nil
	}
	u := state.RunUpdate{PodEvents: a.events.all(f.cfg.EKS.MaxPodEvents)}
	a.peak.into(&u)
	if err := f.observer.Observe(ctx, engine.Observation{RunID: a.runID, Attempt: a.number, Update: u}); err != nil {
		return err
	}
	f.board.change(a.jobName, func(b *attempt) { b.stored, b.events.dirty = a.peak, false })
	return nil
}

// mark notes on the Job that it is recorded, and lets Kubernetes delete it after eks_job_ttl. A log that could not be
// fetched stays where it is for longer.
func (f *follower) mark(ctx context.Context, a *attempt) error {
	if a.seen == nil || a.jobGone || a.seen.DeletionTimestamp != nil || a.logTries >= logTries {
		return nil
	}
	if !job.Ended(a.seen) {
		return errNotYet // the Job controller is about to
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
		f.note("cannot set a Job's time to live", err)
		return fmt.Errorf("setting the Job's time to live: %w", err)
	}
	return nil
}

func (f *follower) followsLogs() bool { return f.cfg.EKS.LogFollow == config.LogFollowAlways }
