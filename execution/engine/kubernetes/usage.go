package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/kubernetes/job"
	"github.com/stitchfix/flotilla-os/state"
)

const (
	// usageInterval is about how often a cluster measures its pods.
	usageInterval = 15 * time.Second
	// metricsAgain is when a cluster that serves no metrics is asked again.
	metricsAgain = 5 * time.Minute
	// worthStoring is by how much a run's greatest use must have grown to be stored before its end.
	worthStoring = 1.1
	bytesPerMB   = 1_000_000
)

// addUse adds the most that a run was seen to use.
func addUse(u *state.RunUpdate, peak state.Size) {
	if peak.Memory > 0 {
		u.MaxMemoryUsed = &peak.Memory
	}
	if peak.CPU > 0 {
		u.MaxCPUUsed = &peak.CPU
	}
}

// measure reads what all pods use, in one request.
func (f *follower) measure(ctx context.Context) error {
	now := f.now()
	if now.Before(f.metricsAfter) || len(f.attempts.living()) == 0 {
		return nil
	}
	list, err := f.cfg.Kube.Metrics.MetricsV1beta1().PodMetricses(f.cfg.EKS.JobNamespace).List(ctx,
		metav1.ListOptions{LabelSelector: job.LabelRunID})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsServiceUnavailable(err) {
		f.metricsAfter = now.Add(metricsAgain)
		f.logger.Info("the cluster serves no metrics of pods", "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the metrics of pods: %w", err)
	}
	var failed []error
	for i := range list.Items {
		m := &list.Items[i]
		a, ok := f.attempts.get(jobOfPod(m.Name))
		if !ok || a.finished {
			continue
		}
		for _, c := range m.Containers {
			if c.Name != a.runID && len(m.Containers) > 1 {
				continue // injected by somebody else
			}
			a.peak = a.peak.AtLeast(state.Size{
				Memory: (c.Usage.Memory().Value() + bytesPerMB - 1) / bytesPerMB, CPU: c.Usage.Cpu().MilliValue(),
			})
		}
		f.attempts.change(a.jobName, func(b *attempt) { b.peak = a.peak })
		grown := float64(a.peak.Memory) > float64(a.stored.Memory)*worthStoring ||
			float64(a.peak.CPU) > float64(a.stored.CPU)*worthStoring
		if !grown || a.lastReported.status == "" {
			continue
		}
		var u state.RunUpdate
		addUse(&u, a.peak)
		if err := f.observer.Observe(ctx, engine.Observation{RunID: a.runID, Attempt: a.number, Update: u}); err != nil {
			failed = append(failed, fmt.Errorf("store what run %s uses: %w", a.runID, err))
			continue
		}
		f.attempts.change(a.jobName, func(b *attempt) { b.stored = a.peak })
	}
	return errors.Join(failed...)
}
