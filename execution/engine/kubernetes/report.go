package kubernetes

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// firstSight is how long a new Job is left alone while it waits: the worker that made it is about to say so itself.
const firstSight = 2 * time.Second

// report brings an attempt's row to where the cluster has the attempt. An error has it tried again.
func (f *follower) report(ctx context.Context, jobName string) error {
	a, ok := f.board.get(jobName)
	if !ok {
		return nil
	}
	if a.over {
		f.endings.Add(jobName)
		return nil
	}
	now := f.now()
	o := job.Classify(a.sighting(now, f.cfg.EKS.ImagePullDeadline))
	if o.Again > 0 {
		f.reports.AddAfter(jobName, o.Again+100*time.Millisecond)
	}
	if o.Status == "" {
		return nil
	}
	if o.Status == state.StatusPending {
		o.Update.StatusReason = f.whyPending(&a, o.Update.StatusReason)
	}
	if o.Status == state.StatusPending && a.told.status == "" && a.seen != nil {
		if wait := firstSight - now.Sub(a.seen.CreationTimestamp.Time); wait > 0 && wait <= firstSight {
			f.reports.AddAfter(jobName, wait)
			return nil
		}
	}
	return f.tell(ctx, a, o)
}

// whyPending is why the attempt waits: what its pod says, else why it has none. A reason that no longer holds is
// cleared.
func (f *follower) whyPending(a *attempt, pods *string) *string {
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
	if a.told.statusReason != "" {
		return new("")
	}
	return nil
}

// tell makes the observation, unless it was made before.
func (f *follower) tell(ctx context.Context, a attempt, o job.Outcome) error {
	now := tolden(o)
	if now == a.told && !a.events.urgent {
		return nil
	}
	seen := engine.Observation{RunID: a.runID, Attempt: a.number, Status: o.Status, Update: o.Update}
	if o.Status == a.told.status {
		seen.Status = "" // only details are new
	}
	if a.told.status == "" {
		f.sizes(&a, &seen.Update)
	}
	seen.Update.PodEvents = a.events.all(f.cfg.EKS.MaxPodEvents)
	a.peak.into(&seen.Update)
	if o.Status == state.StatusStopped {
		fault.Point(fault.ExitSeen)
	}
	if err := f.observer.Observe(ctx, seen); err != nil {
		if ctx.Err() == nil {
			f.note("cannot record what a run does; trying again", err)
		}
		return err
	}
	if podReplaced(a, now) {
		f.count(metrics.EngineEKSRunPodnameChanged)
	}
	over := o.Status == state.StatusStopped || o.Status == state.StatusNeedsRetry
	f.board.change(a.jobName, func(b *attempt) {
		b.told, b.over, b.stored, b.events.urgent = now, over, a.peak, false
		b.asked = b.asked || o.Remove
	})
	switch {
	case o.Remove:
		return f.removeOver(ctx, a)
	case over:
		f.endings.AddAfter(a.jobName, finishDelay)
	case o.Status == state.StatusRunning && f.followsLogs():
		f.logbook.start(f.placeOf(&a))
	}
	return nil
}

// podReplaced says that a run's pod took the place of another: a later attempt's first, or a second one of a Job.
func podReplaced(a attempt, now told) bool {
	if now.pod == "" || now.pod == a.told.pod {
		return false
	}
	return a.told.pod != "" || a.number > 1
}

// count counts something that the cluster did for a run.
func (f *follower) count(m metrics.Metric) {
	f.cfg.Metrics.Increment(m, []string{
		metrics.Tag(metrics.TagEngine, state.EKSEngine), metrics.Tag(metrics.TagCluster, f.cfg.Cluster.Name),
	}, 1)
}

// removeOver deletes what would go on although its attempt is over. What it wrote is fetched first.
func (f *follower) removeOver(ctx context.Context, a attempt) error {
	if a.started() {
		opening, cancel := context.WithTimeout(ctx, openLogWithin)
		f.logbook.openAt(opening, f.placeOf(&a))
		cancel()
	}
	r := removal{namespace: a.namespace, jobName: a.jobName}
	if a.pod != nil {
		r.pod = a.pod.Name
	}
	err := f.remove(ctx, r)
	if err != nil {
		f.note("cannot delete what is left of a run", err)
	}
	f.endings.AddAfter(a.jobName, finishDelay)
	return nil
}

// sizes adds what the Job gave its run: for a run whose submission was cut off, only the Job knows.
func (f *follower) sizes(a *attempt, u *state.RunUpdate) {
	if a.seen == nil {
		return
	}
	given, err := job.ResourcesOf(a.seen)
	if err != nil {
		return
	}
	u.Memory, u.MemoryLimit, u.CPU, u.CPULimit = &given.Memory, &given.Limit.Memory, &given.CPU, &given.Limit.CPU
}

func tolden(o job.Outcome) told {
	t := told{status: o.Status}
	if o.Update.PodName != nil {
		t.pod = *o.Update.PodName
	}
	if o.Update.StatusReason != nil {
		t.statusReason = *o.Update.StatusReason
	}
	return t
}

// lastError has the same failure logged once in a while only.
type lastError struct {
	mu     sync.Mutex
	text   string
	at     time.Time
	failed map[string]bool
}

const sameErrorAgain = time.Minute

// note logs a failure that is tried again.
func (f *follower) note(msg string, err error) {
	f.lastError.mu.Lock()
	defer f.lastError.mu.Unlock()
	if now := f.now(); err.Error() != f.lastError.text || now.Sub(f.lastError.at) >= sameErrorAgain {
		f.lastError.text, f.lastError.at = err.Error(), now
		f.logger.Warn("trouble while following", "what", msg, "error", err) //nolint:sloglint // one constant for all
	}
}

// noteReached logs when a part of the cluster can no longer be read, and when it can again.
func (f *follower) noteReached(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	f.lastError.mu.Lock()
	defer f.lastError.mu.Unlock()
	if f.lastError.failed == nil {
		f.lastError.failed = map[string]bool{}
	}
	switch failed := f.lastError.failed; {
	case err != nil && !failed[what]:
		f.logger.Warn("cannot read the cluster; trying again", "objects", what, "error", err)
	case err == nil && failed[what]:
		f.logger.Info("the cluster can be read again", "objects", what)
	}
	f.lastError.failed[what] = err != nil
}
