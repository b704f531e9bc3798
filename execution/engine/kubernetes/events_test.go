package kubernetes

import (
	"testing"

	"github.com/stretchr/testify/assert"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	b, _ := makeBoard()
	counted := counts{seen: map[metrics.Metric][]string{}}
	f := &follower{board: b, Engine: &Engine{cfg: Config{
		Cluster: state.Cluster{Name: "c"}, EKS: config.Default().EKS, Metrics: counted,
	}}}
	b.jobSeen(makeJob("eks-1", "eks-1"))
	scaleUp := &corev1.Event{
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "eks-1-abcde"},
		Type:           corev1.EventTypeNormal, Reason: "TriggeredScaleUp", Message: "one more node",
		LastTimestamp: metav1.Now(),
	}
	f.event(scaleUp)
	f.event(scaleUp)
	assert.Equal(t, []string{"engine:eks", "cluster:c"}, counted.seen[metrics.EngineEKSTriggeredScaleUp])
}

func TestPodReplaced(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		attempt attempt
		pod     string
		want    bool
	}{
		"the first pod of a run":               {attempt{number: 1}, "a", false},
		"the same pod again":                   {attempt{number: 1, told: told{pod: "a"}}, "a", false},
		"another pod of the same Job":          {attempt{number: 1, told: told{pod: "a"}}, "b", true},
		"the first pod of a later attempt":     {attempt{number: 2}, "b", true},
		"a later attempt that has no pod yet":  {attempt{number: 2}, "", false},
		"a later attempt's pod, seen long ago": {attempt{number: 2, told: told{pod: "b"}}, "b", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			assert.Equal(t, c.want, podReplaced(c.attempt, told{pod: c.pod}))
		})
	}
}
