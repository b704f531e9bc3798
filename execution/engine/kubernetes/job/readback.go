package job

import (
	"encoding/json"
	"errors"
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/state"
)

const bytesPerMB = 1_000_000

// ErrNotOurs says that a Job of a run's name was not made by Build.
var ErrNotOurs = errors.New("adapter: the Job's container has no requests and limits of cpu and memory")

// ResourcesOf reads a Job's sizes back: what a run got whose Job exists already. Parts of a MB or a millicore count as
// whole ones. The error is ErrNotOurs.
func ResourcesOf(job *batchv1.Job) (adapter.Resources, error) {
	containers := job.Spec.Template.Spec.Containers
	if len(containers) == 0 {
		return adapter.Resources{}, ErrNotOurs
	}
	requests, limits := containers[0].Resources.Requests, containers[0].Resources.Limits
	gpu := limits[resourceGPU]
	found := adapter.Resources{
		Size:  state.Size{Memory: megabytes(requests), CPU: requests.Cpu().MilliValue()},
		Limit: state.Size{Memory: megabytes(limits), CPU: limits.Cpu().MilliValue()},
		GPU:   gpu.Value(),
	}
	if min(found.Memory, found.Limit.Memory, found.CPU, found.Limit.CPU) < 1 {
		return adapter.Resources{}, ErrNotOurs
	}
	return found, nil
}

func megabytes(list corev1.ResourceList) int64 {
	bytes := list.Memory().Value()
	return (bytes + bytesPerMB - 1) / bytesPerMB
}

// ManifestYAML is a Job as it is submitted, as a person would write it: without status, and without what the API
// server adds for itself.
func ManifestYAML(job *batchv1.Job) ([]byte, error) {
	meta := metav1.ObjectMeta{
		Name: job.Name, Namespace: job.Namespace, Labels: job.Labels, Annotations: job.Annotations,
	}
	shown, err := json.Marshal(struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Metadata   metav1.ObjectMeta `json:"metadata"`
		Spec       batchv1.JobSpec   `json:"spec"`
	}{batchv1.SchemeGroupVersion.String(), "Job", meta, job.Spec})
	if err != nil {
		return nil, fmt.Errorf("adapter: write the manifest of job %s: %w", job.Name, err)
	}
	return yaml.JSONToYAML(shown)
}
