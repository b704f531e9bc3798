package job

import (
	"cmp"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

// maxEphemeralStorage is the most that is requested of a node's disk, in MB.
const maxEphemeralStorage = 5_000

// resourceGPU is a GPU as Kubernetes counts them, and the taint of nodes that have some.
const resourceGPU = "nvidia.com/gpu"

const (
	sharedMemoryPath = "/dev/shm"
	dockerSocketPath = "/var/run/docker.sock"
)

// sharedMemoryPerGPU is 8 GiB: programs on GPUs hand data between their processes there, and the 64 MB of a container
// are too few.
const sharedMemoryPerGPU = 8 << 30

// requirements are the run's sizes: cpu in millicores, memory and storage in MB of 10^6 bytes.
func requirements(in Input) corev1.ResourceRequirements {
	given := in.Resources
	requests := corev1.ResourceList{
		corev1.ResourceCPU:    quantity(given.CPU, "m"),
		corev1.ResourceMemory: quantity(given.Memory, "M"),
	}
	limits := corev1.ResourceList{
		corev1.ResourceCPU:    quantity(given.Limit.CPU, "m"),
		corev1.ResourceMemory: quantity(given.Limit.Memory, "M"),
	}
	storage := cmp.Or(positive(in.Run.EphemeralStorage), positive(executableOf(in).GetExecutableResources().EphemeralStorage))
	if storage > 0 {
		requests[corev1.ResourceEphemeralStorage] = quantity(min(storage, maxEphemeralStorage), "M")
	}
	if given.GPU > 0 {
		requests[resourceGPU] = quantity(given.GPU, "")
		limits[resourceGPU] = quantity(given.GPU, "")
	}
	return corev1.ResourceRequirements{Requests: requests, Limits: limits}
}

// quantity cannot fail: a whole number with one of these units is a quantity.
func quantity(n int64, unit string) resource.Quantity {
	return resource.MustParse(fmt.Sprintf("%d%s", n, unit))
}

// containerEnvVars is the container's environment, and behind it what the Lakekeeper secret holds. A variable that the
// run or its definition sets is theirs.
func containerEnvVars(env state.EnvList, lakekeeperSecret string) []corev1.EnvVar {
	known := namesOf(env)
	var vars []corev1.EnvVar
	for _, v := range env {
		vars = append(vars, corev1.EnvVar{Name: v.Name, Value: verbatim(v.Value, known)})
	}
	if lakekeeperSecret == "" {
		return vars
	}
	for _, from := range lakekeeperVariables() {
		if !known[from.variable] {
			vars = append(vars, secretVariable(from.variable, lakekeeperSecret, from.key))
		}
	}
	return vars
}

type secretKey struct{ variable, key string }

// lakekeeperVariables are the variables that a Lakekeeper client reads, and the secret's keys that hold them.
func lakekeeperVariables() []secretKey {
	return []secretKey{
		{"OAUTH2_CLIENT_ID", "client_id"},
		{"OAUTH2_CLIENT_SECRET", "client_secret"},
		{"OAUTH2_SERVER_URI", "token_url"},
		{"OAUTH2_SCOPE", "scope"},
		{"CATALOG_URI", "uri"},
		{"WAREHOUSE", "warehouse"},
	}
}

// secretVariable is unset where the secret or its key does not exist; the run starts all the same.
func secretVariable(variable, secret, key string) corev1.EnvVar {
	return corev1.EnvVar{Name: variable, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Key: key, Optional: new(true),
	}}}
}

func volumesOf(in Input) ([]corev1.VolumeMount, []corev1.Volume, error) {
	var mounts []corev1.VolumeMount
	var volumes []corev1.Volume
	mount := func(name, path string, source corev1.VolumeSource) {
		mounts = append(mounts, corev1.VolumeMount{Name: name, MountPath: path})
		volumes = append(volumes, corev1.Volume{Name: name, VolumeSource: source})
	}
	if gpu := in.Resources.GPU; gpu > 0 {
		mount("shared-memory", sharedMemoryPath, corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
			Medium:    corev1.StorageMediumMemory,
			SizeLimit: resource.NewQuantity(gpu*sharedMemoryPerGPU, resource.BinarySI),
		}})
	}
	if in.Run.RequiresDocker {
		if !in.Settings.EKS.AllowDockerSocket {
			return nil, nil, engine.Rejected{Reason: "The run requires docker, which is not allowed here: " +
				"who has a node's docker socket is root there. Ask for eks_allow_docker_socket."}
		}
		mount("docker-socket", dockerSocketPath, corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{
			Path: dockerSocketPath, Type: new(corev1.HostPathSocket),
		}})
	}
	return mounts, volumes, nil
}
