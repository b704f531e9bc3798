package kubernetes

import (
	"context"
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
	// slowestReview bounds how seldom active runs are looked up on the board.
	slowestReview = 5 * time.Minute
	reviewPage    = 1000
)

// reviewInterval is short enough that a lost run is found in time.
func (f *follower) reviewInterval() time.Duration {
	return max(time.Second, min(f.cfg.LostAfter/6, slowestReview))
}

// review looks for active runs that the cluster does not know. At the first time, such runs are also looked for among
// Jobs without our label, which the program before made; after lost_after, they are lost.
func (f *follower) review(ctx context.Context) error {
	missing, err := f.missing(ctx)
	if err != nil {
		return err
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
			for id := range fresh {
				delete(f.unknown, id)
			}
			return err
		}
	}
	for id, since := range f.unknown {
		if now.Sub(since) < f.cfg.LostAfter {
			continue
		}
		if err := f.stopLost(ctx, missing[id]); err != nil {
			return err
		}
	}
	return nil
}

// missing are the active runs of which the board has nothing, by id.
func (f *follower) missing(ctx context.Context) (map[string]state.Run, error) {
	missing := map[string]state.Run{}
	after := ""
	for {
		runs, err := f.cfg.Store.ActiveRuns(ctx, f.cfg.Cluster.Name, "", after, reviewPage)
		if err != nil {
			return nil, fmt.Errorf("listing the active runs: %w", err)
		}
		for _, run := range runs {
			if !f.board.knows(job.Name(run)) {
				missing[run.RunID] = state.Run{RunID: run.RunID, AttemptCount: run.AttemptCount}
			}
			after = run.RunID
		}
		if len(runs) < reviewPage {
			return missing, nil
		}
	}
}

// adopt finds Jobs by their names alone and gives them the label by which they are watched from then on: the program
// before us labelled pods only (data-model.md, Taking over).
func (f *follower) adopt(ctx context.Context, ids map[string]bool) error {
	jobs := f.cfg.Kube.Client.BatchV1().Jobs(f.cfg.EKS.JobNamespace)
	next := ""
	for {
		page, err := jobs.List(ctx, metav1.ListOptions{LabelSelector: "!" + job.LabelRunID, Limit: reviewPage, Continue: next})
		if err != nil {
			return fmt.Errorf("listing Jobs by name: %w", err)
		}
		for i := range page.Items {
			name := page.Items[i].Name
			if !ids[name] {
				continue
			}
			patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%q}}}`, job.LabelRunID, name)
			if _, err := jobs.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
				return fmt.Errorf("labelling an adopted Job: %w", err)
			}
			f.logger.Info("Job of the program before adopted", "run_id", name)
		}
		if next = page.Continue; next == "" {
			return nil
		}
	}
}

func (f *follower) stopLost(ctx context.Context, run state.Run) error {
	err := f.observer.Observe(ctx, engine.Observation{
		RunID: run.RunID, Attempt: run.Attempt(), Status: state.StatusStopped,
		Update: state.RunUpdate{ExitReason: new(state.ReasonLost)},
	})
	if err != nil {
		return fmt.Errorf("stopping a lost run: %w", err)
	}
	f.logger.Warn("run lost by its cluster", "run_id", run.RunID)
	delete(f.unknown, run.RunID)
	return nil
}

// endStopped reports again the living attempts of runs that were stopped: the observer then has them ended. A stop
// asks for that at once; this is for when it could not.
func (f *follower) endStopped(ctx context.Context) error {
	living := f.board.living()
	if len(living) == 0 {
		return nil
	}
	stopped, err := f.cfg.Store.StoppedAmong(ctx, slices.Collect(maps.Keys(living)))
	if err != nil {
		return fmt.Errorf("asking which runs were stopped: %w", err)
	}
	for _, id := range stopped {
		f.board.change(living[id], func(a *attempt) { a.told = told{} })
		f.reports.Add(living[id])
	}
	return nil
}
