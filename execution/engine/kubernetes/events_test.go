package kubernetes

import (
	"testing"

	"github.com/stretchr/testify/assert"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/state"
)

// counts is a metrics client that counts.
type counts struct {
	metrics.Nop
	seen map[metrics.Metric][]string
}

var _ metrics.Client = counts{}

func (c counts) Increment(m metrics.Metric, tags []string, _ int64) {
	c.seen[m] = append(c.seen[m], tags...)
}

func TestScaleUpsAreCountedOncePerRun(t *testing.T) {
	t.Parallel()
	counted := counts{seen: map[metrics.Metric][]string{}}
	f := &follower{
		Engine:  &Engine{cfg: Config{Cluster: state.Cluster{Name: "c"}, EKS: config.Default().EKS, Metrics: counted}},
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
	once := []string{"engine:eks", "cluster:c"}
	f.attempts.jobSeen(makeJob("eks-1", "eks-1"))
	scaleUp("eks-1-abcde")
	scaleUp("eks-1-abcde")
	assert.Equal(t, once, counted.seen[metrics.EngineEKSTriggeredScaleUp])
	scaleUp("web-5d8f-x1")
	scaleUp("eks-2-fghij")
	assert.Equal(t, once, counted.seen[metrics.EngineEKSTriggeredScaleUp], "pods that belong to no run are not counted")
	f.attempts.jobSeen(makeJob("eks-2", "eks-2"))
	assert.Equal(t, append(once, once...), counted.seen[metrics.EngineEKSTriggeredScaleUp], "counted when the run's Job is seen")
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
