package kubernetes

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// firstSight is how long a new Job that waits is left alone: the worker that made it is about to report it itself.
const firstSight = 2 * time.Second

// report brings an attempt's row to where the cluster has the attempt. After an error it is called again.
func (f *follower) report(ctx context.Context, jobName string) error {
	a, ok := f.attempts.get(jobName)
	if !ok {
		return nil
	}
	if a.over {
		f.endings.Add(jobName)
		return nil
	}
	now := f.now()
	o := job.Classify(job.Sighting{
		Job: a.job, JobGone: a.jobGone, Pod: a.pod, PodGone: a.podGone, Asked: a.asked,
		Container: a.runID, PullDeadline: f.cfg.EKS.ImagePullDeadline, Now: now,
	})
	if o.Again > 0 {
		f.reports.AddAfter(jobName, o.Again+100*time.Millisecond)
	}
	switch o.Status {
	case "":
		return nil
	case state.StatusPending:
		o.Update.StatusReason = whyPending(&a, o.Update.StatusReason)
		if a.lastReported.status == "" && a.job != nil {
			if wait := firstSight - now.Sub(a.job.CreationTimestamp.Time); wait > 0 && wait <= firstSight {
				f.reports.AddAfter(jobName, wait)
				return nil
			}
		}
	}
	return f.observe(ctx, &a, o)
}

// whyPending returns why an attempt waits: what its pod says, else why it has none. A reason that no longer holds is
// cleared.
func whyPending(a *attempt, pods *string) *string {
	if pods != nil {
		return pods
	}
	if a.pod == nil {
		for _, e := range slices.Backward(a.events.list) {
			if e.SourceObject == a.jobName && e.EventType == corev1.EventTypeWarning {
				return new(e.Reason + ": " + e.Message)
			}
		}
	}
	if a.lastReported.statusReason != "" {
		return new("")
	}
	return nil
}

// observe makes the observation, unless it was made before, and does what follows from it.
func (f *follower) observe(ctx context.Context, a *attempt, o job.Outcome) error {
	now := report{status: o.Status}
	if o.Update.PodName != nil {
		now.pod = *o.Update.PodName
	}
	if o.Update.StatusReason != nil {
		now.statusReason = *o.Update.StatusReason
	}
	if now == a.lastReported && !a.events.urgent {
		return nil
	}
	seen := engine.Observation{RunID: a.runID, Attempt: a.number, Status: o.Status, Update: o.Update}
	if o.Status == a.lastReported.status {
		seen.Status = "" // only details are new
	}
	if a.lastReported.status == "" && a.job != nil {
		// If the submission of the run was cut off, only the Job knows what the run was given.
		if given, err := job.ResourcesOf(a.job); err == nil {
			u := &seen.Update
			u.Memory, u.MemoryLimit, u.CPU, u.CPULimit = &given.Memory, &given.Limit.Memory, &given.CPU, &given.Limit.CPU
		}
	}
	seen.Update.PodEvents = a.events.newest(f.cfg.EKS.MaxPodEvents)
	addUse(&seen.Update, a.peak)
	if o.Status == state.StatusStopped {
		fault.Point(fault.ExitSeen)
	}
	if err := f.observer.Observe(ctx, seen); err != nil {
		f.outages.note(ctx, "record what runs do", err, "run_id", a.runID)
		return err
	}
	if podReplaced(a, now) {
		f.count(metrics.EngineEKSRunPodnameChanged)
	}
	over := o.Status == state.StatusStopped || o.Status == state.StatusNeedsRetry
	f.attempts.change(a.jobName, func(b *attempt) {
		b.lastReported, b.over, b.stored, b.events.urgent = now, over, a.peak, false
		b.asked = b.asked || o.Remove
	})
	switch {
	case o.Remove:
		f.removeRest(ctx, a)
		f.endings.AddAfter(a.jobName, finishDelay)
	case over:
		f.endings.AddAfter(a.jobName, finishDelay)
	case o.Status == state.StatusRunning && f.cfg.EKS.LogFollow == config.LogFollowAlways:
		f.logStreams.start(logOf(a))
	}
	return nil
}

// podReplaced reports whether a run's pod took the place of another: a later attempt's first, or a second one of a Job.
func podReplaced(a *attempt, now report) bool {
	return now.pod != "" && now.pod != a.lastReported.pod && (a.lastReported.pod != "" || a.number > 1)
}

// removeRest deletes what would go on although its attempt is over. Its log is opened first, so that it is kept.
func (f *follower) removeRest(ctx context.Context, a *attempt) {
	if a.started() {
		f.logStreams.open(ctx, logOf(a))
	}
	r := removal{namespace: a.namespace, jobName: a.jobName}
	if a.pod != nil {
		r.pod = a.pod.Name
	}
	if err := f.remove(ctx, r); err != nil {
		f.outages.note(ctx, "delete what is left of runs", err, "run_id", a.runID)
	}
}
