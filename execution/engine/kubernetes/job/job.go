// Package job builds the Kubernetes Job of a run's attempt, reads one back, and decides from a Job and its pod where the
// attempt stands. Everything here is a pure function of its input; talking to a cluster is package kubernetes's part.
package job

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/state"
)

// ttlAtCreation is how long Kubernetes keeps an ended Job whose end we have not recorded: long enough that nothing is
// lost while no server of ours runs. It is lowered to eks_job_ttl afterwards.
const ttlAtCreation = 7 * 24 * time.Hour

// Settings are common to all Jobs.
type Settings struct {
	// Mode is flotilla_mode.
	Mode      string
	EKS       config.EKS
	Deadlines config.Deadlines
}

// Input is what one attempt's Job is built from.
type Input struct {
	Run state.Run
	// Executable is what the run was made from; nil if that is gone.
	Executable state.Executable
	// Resources is what Adapter.Resources gave the run.
	Resources adapter.Resources
	// Capabilities are those of the cluster, implied ones included.
	Capabilities state.Capabilities
	Settings     Settings
	// Now is when the Job is built; an attempt after the first gets the rest of the deadline.
	Now time.Time
}

// Name returns the name of an attempt's Job: the run's id, followed by the number of the attempt from the second one on.
func Name(run state.Run) string {
	if run.Attempt() == 1 {
		return run.RunID
	}
	return run.RunID + "-" + strconv.FormatInt(run.Attempt(), 10)
}

// Attempt returns which attempt at the run a Job is, or 0 if Name does not make that name.
func Attempt(jobName, runID string) int64 {
	if jobName == runID {
		return 1
	}
	suffix, ok := strings.CutPrefix(jobName, runID+"-")
	if !ok {
		return 0
	}
	attempt, err := strconv.ParseInt(suffix, 10, 64)
	if err != nil || attempt < 2 || suffix != strconv.FormatInt(attempt, 10) {
		return 0
	}
	return attempt
}

// Build returns the Job of an attempt (kubernetes.md, The Job); it depends on nothing but its input. The error is
// engine.Rejected: the run can never be a Job as it is. Much else that can be wrong with a run, such as the key of a
// label, is left to the API server, whose rules change with its version and whose messages name them.
func Build(in Input) (*batchv1.Job, error) {
	pod, err := podSpec(in)
	if err != nil {
		return nil, err
	}
	return &batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{
			Name:      Name(in.Run),
			Namespace: in.Settings.EKS.JobNamespace,
			Labels:    jobLabels(in.Run, in.Settings.Mode),
		},
		Spec: batchv1.JobSpec{
			TTLSecondsAfterFinished: new(int32(ttlAtCreation.Seconds())),
			// Another attempt is another Job: the Job controller does not decide what may be tried again.
			BackoffLimit: new(int32(0)),
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{
					Labels: jobLabels(in.Run, in.Settings.Mode),
					Annotations: map[string]string{
						"prometheus.io/port":   "9090",
						"prometheus.io/scrape": "true",
					},
				},
				Spec: pod,
			},
		},
	}, nil
}

func podSpec(in Input) (corev1.PodSpec, error) {
	container, volumes, err := containerOf(in)
	if err != nil {
		return corev1.PodSpec{}, err
	}
	eks, where := in.Settings.EKS, placementOf(in)
	serviceAccount := eks.DefaultServiceAccount
	if own := in.Run.ServiceAccount; own != nil && *own != "" {
		serviceAccount = *own
	}
	return corev1.PodSpec{
		Containers:                    []corev1.Container{container},
		Volumes:                       volumes,
		RestartPolicy:                 corev1.RestartPolicyNever,
		SchedulerName:                 eks.SchedulerName,
		ServiceAccountName:            serviceAccount,
		ActiveDeadlineSeconds:         new(deadline(in)),
		TerminationGracePeriodSeconds: new(int64(eks.TerminateGrace / time.Second)),
		Affinity:                      where.affinity(),
		Tolerations:                   where.tolerations,
	}, nil
}

// deadline returns the run's deadline, else that of its lifecycle, in seconds. It counts from the first attempt's start,
// so a later attempt has the rest of it; the least that Kubernetes accepts is 1.
func deadline(in Input) int64 {
	standard := in.Settings.Deadlines.Spot
	if onDemand(in) {
		standard = in.Settings.Deadlines.OnDemand
	}
	seconds := cmp.Or(positive(in.Run.ActiveDeadlineSeconds), int64(standard/time.Second))
	if in.Run.Attempt() > 1 && in.Run.StartedAt != nil {
		seconds -= int64(max(in.Now.Sub(*in.Run.StartedAt), 0) / time.Second)
	}
	return min(max(seconds, 1), math.MaxInt32)
}

// executableOf returns the run's executable, or an empty one if that is gone.
func executableOf(in Input) state.Executable {
	if in.Executable == nil {
		return state.Definition{}
	}
	return in.Executable
}

// positive returns the number, or 0 if there is none or it is negative.
func positive(n *int64) int64 {
	if n == nil {
		return 0
	}
	return max(*n, 0)
}

const bytesPerMB = 1_000_000

// ErrNotOurs reports that a Job with a run's name was not made by Build.
var ErrNotOurs = errors.New("job: the Job's container has no requests and limits of cpu and memory")

// ResourcesOf returns the sizes of a Job, which are what its run was given. Parts of a MB or a millicore count as whole
// ones. The error is ErrNotOurs.
func ResourcesOf(job *batchv1.Job) (adapter.Resources, error) {
	containers := job.Spec.Template.Spec.Containers
	if len(containers) == 0 {
		return adapter.Resources{}, ErrNotOurs
	}
	megabytes := func(list corev1.ResourceList) int64 { return (list.Memory().Value() + bytesPerMB - 1) / bytesPerMB }
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

// ManifestYAML returns a Job as a person would write it: without status, and without what the API server adds.
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
		return nil, fmt.Errorf("job: write the manifest of %s: %w", job.Name, err)
	}
	return yaml.JSONToYAML(shown)
}
