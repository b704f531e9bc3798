package job

import (
	"cmp"
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/stitchfix/flotilla-os/execution/container"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

// maxEphemeralStorage is the most that is requested of a node's disk, in MB.
const maxEphemeralStorage = 5_000

// resourceGPU is the resource of GPUs, and the taint of nodes that have some.
const resourceGPU = "nvidia.com/gpu"

const (
	sharedMemoryPath = "/dev/shm"
	dockerSocketPath = "/var/run/docker.sock"
)

// sharedMemoryPerGPU is 8 GiB: programs on GPUs exchange data between their processes there, and the 64 MB of a
// container are too few.
const sharedMemoryPerGPU = 8 << 30

// containerOf returns the run's container and the volumes that it mounts. The error is engine.Rejected.
func containerOf(in Input) (corev1.Container, []corev1.Volume, error) {
	executable := executableOf(in).GetExecutableResources()
	var ports []corev1.ContainerPort
	seen := map[int64]bool{}
	for _, port := range executable.Ports {
		// The API server would see the lowest 16 bits only, which could be another port.
		if port < 1 || port > math.MaxUint16 {
			return corev1.Container{}, nil, engine.Rejected{
				Reason: fmt.Sprintf("The definition's port %d is not a port: those are 1 to 65535.", port),
			}
		}
		if !seen[port] {
			seen[port] = true
			ports = append(ports, corev1.ContainerPort{ContainerPort: int32(port)})
		}
	}
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
			return corev1.Container{}, nil, engine.Rejected{Reason: "The run requires docker, which is not allowed here: " +
				"who has a node's docker socket is root there. Ask for eks_allow_docker_socket."}
		}
		mount("docker-socket", dockerSocketPath, corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{
			Path: dockerSocketPath, Type: new(corev1.HostPathSocket),
		}})
	}
	env := container.Env(in.Executable, in.Run)
	known := make(map[string]bool, len(env))
	for _, v := range env {
		known[v.Name] = true
	}
	command := container.Command(in.Run)
	for i := range command {
		command[i] = verbatim(command[i], known)
	}
	return corev1.Container{
		Name:            in.Run.RunID,
		Image:           in.Run.Image,
		Command:         command,
		ImagePullPolicy: corev1.PullPolicy(in.Settings.EKS.ImagePullPolicy),
		Ports:           ports,
		Env:             envVars(env, known, in.Settings.EKS.LakekeeperSecretName),
		Resources:       requirements(in),
		VolumeMounts:    mounts,
	}, volumes, nil
}

// requirements returns the run's sizes: cpu in millicores, memory and storage in MB of 10^6 bytes.
func requirements(in Input) corev1.ResourceRequirements {
	// A whole number with one of these units is always a quantity.
	quantity := func(n int64, unit string) resource.Quantity { return resource.MustParse(fmt.Sprintf("%d%s", n, unit)) }
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

// lakekeeperVariables are the variables that a Lakekeeper client reads, and the keys of the secret that hold them.
var lakekeeperVariables = [...]struct{ variable, key string }{
	{"OAUTH2_CLIENT_ID", "client_id"},
	{"OAUTH2_CLIENT_SECRET", "client_secret"},
	{"OAUTH2_SERVER_URI", "token_url"},
	{"OAUTH2_SCOPE", "scope"},
	{"CATALOG_URI", "uri"},
	{"WAREHOUSE", "warehouse"},
}

// envVars returns the container's environment, followed by what the Lakekeeper secret holds. A variable that the run or
// its definition sets is theirs. A variable whose secret or key does not exist is unset, and the run starts all the same.
func envVars(env state.EnvList, known map[string]bool, lakekeeperSecret string) []corev1.EnvVar {
	var vars []corev1.EnvVar
	for _, v := range env {
		vars = append(vars, corev1.EnvVar{Name: v.Name, Value: verbatim(v.Value, known)})
	}
	if lakekeeperSecret == "" {
		return vars
	}
	for _, from := range lakekeeperVariables {
		if !known[from.variable] {
			vars = append(vars, corev1.EnvVar{Name: from.variable, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
				LocalObjectReference: corev1.LocalObjectReference{Name: lakekeeperSecret}, Key: from.key, Optional: new(true),
			}}})
		}
	}
	return vars
}

// verbatim escapes text so that the container gets it as it is. In commands and in values of the environment Kubernetes
// replaces $(NAME) by that variable if it is known, and $$ by $
// (https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/). The user's
// shell expects neither: "echo $$" must print a process id. Most text passes unharmed and stays unchanged; in the rest
// every $ is doubled.
func verbatim(text string, known map[string]bool) string {
	if !expands(text, known) {
		return text
	}
	return strings.ReplaceAll(text, "$", "$$")
}

// expands reports whether Kubernetes would change text. It reads text as Kubernetes does: a $( reaches to the next ), and
// nothing between them is examined.
func expands(text string, known map[string]bool) bool {
	for i := 0; i+1 < len(text); i++ {
		if text[i] != '$' {
			continue
		}
		switch text[i+1] {
		case '$':
			return true
		case '(':
			name, _, closed := strings.Cut(text[i+2:], ")")
			if !closed {
				continue
			}
			if known[name] || mayBeService(name) {
				return true
			}
			i += len("$(") + len(name)
		}
	}
	return false
}

// mayBeService reports whether the node may add a variable of that name: it adds some for each service of the namespace,
// in capitals.
func mayBeService(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_'
	})
}
