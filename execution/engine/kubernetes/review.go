package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
	"github.com/stitchfix/flotilla-os/state"
)

const (
	// stoppedInterval is how often the database is asked which living Jobs belong to stopped runs.
	stoppedInterval = 15 * time.Second
	// slowestReview bounds how seldom active runs are compared with what the cluster has.
	slowestReview = 5 * time.Minute
	reviewPage    = 1000
)

// review looks for active runs that the cluster does not know. When it first misses runs it also looks for them among
// Jobs without our label, which the program before this one made. After lost_after they are lost. A run that cannot be
// dealt with is logged and left to the next review; it does not keep the others from theirs.
func (f *follower) review(ctx context.Context) error {
	missing := map[string]state.Run{}
	for after, full := "", true; full; {
		runs, err := f.cfg.Store.ActiveRuns(ctx, state.EngineKey{Cluster: f.cfg.Cluster.Name, Engine: state.EKSEngine}, "", after, reviewPage)
		if err != nil {
			return fmt.Errorf("list the active runs: %w", err)
		}
		for _, run := range runs {
			if !f.attempts.knows(job.Name(run)) {
				missing[run.RunID] = state.Run{RunID: run.RunID, AttemptCount: run.AttemptCount}
			}
			after = run.RunID
		}
		full = len(runs) >= reviewPage
	}
	now := f.now()
	fresh := map[string]bool{}
	for id := range missing {
		if _, known := f.unknown[id]; !known {
			f.unknown[id] = now
			fresh[id] = true
		}
	}
	maps.DeleteFunc(f.unknown, func(id string, _ time.Time) bool { _, still := missing[id]; return !still })
	if len(fresh) > 0 {
		if err := f.adopt(ctx, fresh); err != nil {
			maps.DeleteFunc(f.unknown, func(id string, _ time.Time) bool { return fresh[id] })
			return err
		}
	}
	var failed []error
	for id, since := range f.unknown {
		if now.Sub(since) < f.cfg.LostAfter {
			continue
		}
		run := missing[id]
		err := f.observer.Observe(ctx, engine.Observation{
			RunID: id, Attempt: run.Attempt(), Status: state.StatusStopped,
			Update: state.RunUpdate{ExitReason: new(state.ReasonLost)},
		})
		if err != nil {
			failed = append(failed, fmt.Errorf("stop the lost run %s: %w", id, err))
			continue
		}
		f.logger.Warn("run lost by its cluster", "run_id", id)
		delete(f.unknown, id)
	}
	return errors.Join(failed...)
}

// adopt finds Jobs by their names alone and gives them the label by which they are watched from then on: the program
// before this one labelled pods only (data-model.md, Taking over). A Job that cannot be labelled is looked for again at
// the next review, so that its run is not lost.
func (f *follower) adopt(ctx context.Context, ids map[string]bool) error {
	jobs := f.cfg.Kube.Client.BatchV1().Jobs(f.cfg.EKS.JobNamespace)
	for next := ""; ; {
		page, err := jobs.List(ctx, metav1.ListOptions{LabelSelector: "!" + job.LabelRunID, Limit: reviewPage, Continue: next})
		if err != nil {
			return fmt.Errorf("list Jobs by name: %w", err)
		}
		for i := range page.Items {
			name := page.Items[i].Name
			if !ids[name] {
				continue
			}
			patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%q}}}`, job.LabelRunID, name)
			if _, err := jobs.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
				delete(f.unknown, name)
				f.outages.note(ctx, "adopt Jobs of the program before", err, "run_id", name)
				continue
			}
			f.logger.Info("Job of the program before adopted", "run_id", name)
		}
		if next = page.Continue; next == "" {
			return nil
		}
	}
}

// endStopped reports again the living attempts of runs that were stopped, so that the observer has them ended. A stop
// asks for that at once; this is for stops that could not.
func (f *follower) endStopped(ctx context.Context) error {
	living := f.attempts.living()
	if len(living) == 0 {
		return nil
	}
	stopped, err := f.cfg.Store.StoppedAmong(ctx, slices.Collect(maps.Keys(living)))
	if err != nil {
		return fmt.Errorf("list which runs were stopped: %w", err)
	}
	for _, id := range stopped {
		f.attempts.change(living[id], func(a *attempt) { a.lastReported = report{} })
		f.reports.Add(living[id])
	}
	return nil
}
