package kubernetes

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

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

// usage is the most that a run was seen to use. Memory in MB, CPU in millicores.
type usage struct{ memory, cpu int64 }

func (u usage) into(update *state.RunUpdate) {
	if u.memory > 0 {
		update.MaxMemoryUsed = &u.memory
	}
	if u.cpu > 0 {
		update.MaxCPUUsed = &u.cpu
	}
}

func (u usage) exceeds(stored usage) bool {
	return float64(u.memory) > float64(stored.memory)*worthStoring || float64(u.cpu) > float64(stored.cpu)*worthStoring
}

// metricsState is of the one goroutine that measures.
type metricsState struct{ notBefore time.Time }

// measure reads what all pods use in one request.
func (f *follower) measure(ctx context.Context) error {
	now := f.now()
	if now.Before(f.metrics.notBefore) || len(f.board.living()) == 0 {
		return nil
	}
	list, err := f.cfg.Kube.Metrics.MetricsV1beta1().PodMetricses(f.cfg.EKS.JobNamespace).List(ctx,
		metav1.ListOptions{LabelSelector: job.LabelRunID})
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsServiceUnavailable(err) {
		f.metrics.notBefore = now.Add(metricsAgain)
		f.logger.Info("the cluster tells nothing about what runs use", "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading what runs use: %w", err)
	}
	for i := range list.Items {
		if err := f.measured(ctx, &list.Items[i]); err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) measured(ctx context.Context, m *metricsv1.PodMetrics) error {
	a, ok := f.board.get(jobOfPod(m.Name))
	if !ok || a.finished {
		return nil
	}
	for _, c := range m.Containers {
		if c.Name != a.runID && len(m.Containers) > 1 {
			continue
		}
		bytes := c.Usage.Memory().Value()
		a.peak.memory = max(a.peak.memory, (bytes+bytesPerMB-1)/bytesPerMB)
		a.peak.cpu = max(a.peak.cpu, c.Usage.Cpu().MilliValue())
	}
	f.board.change(a.jobName, func(b *attempt) { b.peak = a.peak })
	if !a.peak.exceeds(a.stored) || a.told.status == "" {
		return nil
	}
	var u state.RunUpdate
	a.peak.into(&u)
	if err := f.observer.Observe(ctx, engine.Observation{RunID: a.runID, Attempt: a.number, Update: u}); err != nil {
		return err
	}
	f.board.change(a.jobName, func(b *attempt) { b.stored = a.peak })
	return nil
}
