package kubernetes

import (
	"testing"

	"github.com/stretchr/testify/assert"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/metrics/metricstest"
	"github.com/stitchfix/flotilla-os/state"
)

func TestScaleUpsAreCountedOncePerRun(t *testing.T) {
	t.Parallel()
	measured := metricstest.New(t)
	f := &follower{
		Engine:  &Engine{cfg: Config{Cluster: state.Cluster{Name: "c"}, EKS: config.Default().EKS, Metrics: measured}},
		reports: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]()),
	}
	t.Cleanup(f.reports.ShutDown)
	f.attempts = newAttempts(func(string) {}, func() { f.count(metrics.EngineEKSTriggeredScaleUp) })
	scaleUp := func(pod string) {
		assert.NoError(t, eventSink{f}.Add(&corev1.Event{
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: pod},
			Type:           corev1.EventTypeNormal, Reason: "TriggeredScaleUp", Message: "one more node",
			LastTimestamp: metav1.Now(),
		}))
	}
	counted := func() int64 { return measured.Count(metrics.EngineEKSTriggeredScaleUp, "engine:eks", "cluster:c") }
	f.attempts.jobSeen(makeJob("eks-1", "eks-1"))
	scaleUp("eks-1-abcde")
	scaleUp("eks-1-abcde")
	assert.EqualValues(t, 1, counted())
	scaleUp("web-5d8f-x1")
	scaleUp("eks-2-fghij")
	assert.EqualValues(t, 1, counted(), "pods that belong to no run are not counted")
	f.attempts.jobSeen(makeJob("eks-2", "eks-2"))
	assert.EqualValues(t, 2, counted(), "counted when the run's Job is seen")
}

func TestPodReplaced(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		attempt attempt
		pod     string
		want    bool
	}{
		"the first pod of a run":               {attempt{number: 1}, "a", false},
		"the same pod again":                   {attempt{number: 1, lastReported: report{pod: "a"}}, "a", false},
		"another pod of the same Job":          {attempt{number: 1, lastReported: report{pod: "a"}}, "b", true},
		"the first pod of a later attempt":     {attempt{number: 2}, "b", true},
		"a later attempt that has no pod yet":  {attempt{number: 2}, "", false},
		"a later attempt's pod, seen long ago": {attempt{number: 2, lastReported: report{pod: "b"}}, "b", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, podReplaced(&c.attempt, report{pod: c.pod}))
		})
	}
}
