// Package job builds the Kubernetes Job of a run's attempt, reads one back, and decides from a Job and its pod where the
// attempt stands. Everything here is a pure function of its input; talking to a cluster is package kubernetes's part.
package job

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/execution/container"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

// ttlAtCreation is how long Kubernetes keeps a Job that has ended while we have not recorded its end: long enough that
// nothing is lost while no server of ours runs. It is lowered to eks_job_ttl afterwards.
const ttlAtCreation = 7 * 24 * time.Hour

// Settings are what all Jobs have in common.
type Settings struct {
	// Mode is flotilla_mode.
	Mode      string
	EKS       config.EKS
	Deadlines config.Deadlines
}

// Input is what one attempt's Job is built from.
type Input struct {
	Run state.Run
	// Executable is what the run was made from; nil where that is gone.
	Executable state.Executable
	// Resources are what Adapter.Resources gave the run.
	Resources adapter.Resources
	// Capabilities are those of the cluster, implied ones included.
	Capabilities state.Capabilities
	Settings     Settings
	// Now is when the Job is built; an attempt after the first gets what is left of the deadline.
	Now time.Time
}

// Name is the name of an attempt's Job: the run's id, and from the second attempt on its number.
func Name(run state.Run) string {
	if run.Attempt() == 1 {
		return run.RunID
	}
	return run.RunID + "-" + strconv.FormatInt(run.Attempt(), 10)
}

// Attempt is the attempt that a Job of the run is, 0 for a name that Name does not make.
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

// Build makes the Job of an attempt (kubernetes.md, The Job). It depends on nothing but its input. An error is
// engine.Rejected: the run can never be a Job as it is. Much else that can be wrong with a run, such as the key of a
// label, is left to the API server, whose rules change with its version and whose messages say them.
func Build(in Input) (*batchv1.Job, error) {
	pod, err := podSpec(in)
	if err != nil {
		return nil, err
	}
	labels := jobLabels(in.Run, in.Settings.Mode)
	return &batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{
			Name:      Name(in.Run),
			Namespace: in.Settings.EKS.JobNamespace,
			Labels:    labels,
		},
		Spec: batchv1.JobSpec{
			TTLSecondsAfterFinished: new(int32(ttlAtCreation.Seconds())),
			// Another attempt is another Job: what may be tried again is not the Job controller's to decide.
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
	return corev1.PodSpec{
		Containers:                    []corev1.Container{container},
		Volumes:                       volumes,
		RestartPolicy:                 corev1.RestartPolicyNever,
		SchedulerName:                 eks.SchedulerName,
		ServiceAccountName:            serviceAccount(in),
		ActiveDeadlineSeconds:         new(deadline(in)),
		TerminationGracePeriodSeconds: new(int64(eks.TerminateGrace / time.Second)),
		Affinity:                      where.affinity(),
		Tolerations:                   where.tolerations,
	}, nil
}

func containerOf(in Input) (corev1.Container, []corev1.Volume, error) {
	ports, err := containerPorts(in)
	if err != nil {
		return corev1.Container{}, nil, err
	}
	mounts, volumes, err := volumesOf(in)
	if err != nil {
		return corev1.Container{}, nil, err
	}
	env := container.Env(in.Executable, in.Run)
	command := container.Command(in.Run)
	known := namesOf(env)
	for i := range command {
		command[i] = verbatim(command[i], known)
	}
	return corev1.Container{
		Name:            in.Run.RunID,
		Image:           in.Run.Image,
		Command:         command,
		ImagePullPolicy: corev1.PullPolicy(in.Settings.EKS.ImagePullPolicy),
		Ports:           ports,
		Env:             containerEnvVars(env, in.Settings.EKS.LakekeeperSecretName),
		Resources:       requirements(in),
		VolumeMounts:    mounts,
	}, volumes, nil
}

// containerPorts lists each port once. A number that is none is our message: 16 bits of it could be one.
func containerPorts(in Input) ([]corev1.ContainerPort, error) {
	var ports []corev1.ContainerPort
	seen := map[int64]bool{}
	for _, port := range executableOf(in).GetExecutableResources().Ports {
		if port < 1 || port > math.MaxUint16 {
			return nil, engine.Rejected{Reason: fmt.Sprintf("The definition's port %d is not a port: those are 1 to 65535.", port)}
		}
		if !seen[port] {
			seen[port] = true
			ports = append(ports, corev1.ContainerPort{ContainerPort: int32(port)})
		}
	}
	return ports, nil
}

func serviceAccount(in Input) string {
	if own := in.Run.ServiceAccount; own != nil && *own != "" {
		return *own
	}
	return in.Settings.EKS.DefaultServiceAccount
}

// deadline is the run's, else that of its lifecycle, in seconds. It counts from the first attempt's start, so that a
// later attempt has what is left; the least that Kubernetes takes is 1.
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

// executableOf is an executable that says nothing where the run's own is gone.
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
