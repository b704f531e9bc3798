package job

import (
	"testing"

	"github.com/stretchr/testify/assert"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/state"
)

func scriptIs(want string) func(t *testing.T, job *batchv1.Job) {
	return func(t *testing.T, job *batchv1.Job) {
		assert.Equal(t, []string{"bash", "-l", "-cex", want}, mainContainer(job).Command)
		assert.Empty(t, mainContainer(job).Args)
	}
}

func command(script string) func(in *Input) {
	return func(in *Input) { in.Run.Command = &script }
}

func containerCases() map[string]jobCase {
	return map[string]jobCase{
		"the container": {check: func(t *testing.T, job *batchv1.Job) {
			assert.Equal(t, testRunID, mainContainer(job).Name)
			assert.Equal(t, "127.0.0.1:5055/flotilla-test:latest", mainContainer(job).Image)
			assert.Equal(t, corev1.PullAlways, mainContainer(job).ImagePullPolicy)
			assert.Empty(t, mainContainer(job).Env)
			assert.Empty(t, mainContainer(job).Ports)
			scriptIs("echo hello")(t, job)
		}},
		"no command is an empty script": {
			change: func(in *Input) { in.Run.Command = nil }, check: scriptIs("")},
		"a command that Kubernetes would leave alone stays as it is": {
			change: command("echo $HOME $(date) $(echo $$) ${A} $ $("),
			check:  scriptIs("echo $HOME $(date) $(echo $$) ${A} $ $(")},
		"a command that Kubernetes would change is written so that it is not": {
			change: command("echo $$ $(date) $HOME"), check: scriptIs("echo $$$$ $$(date) $$HOME")},
		"a command substitution called like a variable": {
			change: func(in *Input) {
				in.Run.Command, in.Run.Env = new("echo $(tool)"), state.EnvList{{Name: "tool", Value: "x"}}
			},
			check: scriptIs("echo $$(tool)")},
		"a command substitution called like a variable that the node adds": {
			change: command("echo $(KUBERNETES_PORT)"), check: scriptIs("echo $$(KUBERNETES_PORT)")},
		"the definition's environment and the run's over it": {
			change: func(in *Input) {
				in.Executable = state.Definition{Env: state.EnvList{{Name: "A", Value: "1"}, {Name: "$B", Value: "2"}}}
				in.Run.Env = state.EnvList{{Name: "C C", Value: "pa$$word"}, {Name: "A", Value: "http://$(B)"}}
			},
			check: func(t *testing.T, job *batchv1.Job) {
				assert.Equal(t, []corev1.EnvVar{
					{Name: "A", Value: "http://$$(B)"}, {Name: "B", Value: "2"}, {Name: "CC", Value: "pa$$$$word"},
				}, mainContainer(job).Env)
			}},
		"the Lakekeeper secret": {
			change: func(in *Input) {
				in.Settings.EKS.LakekeeperSecretName = "lakekeeper"
				in.Run.Env = state.EnvList{{Name: "WAREHOUSE", Value: "mine"}}
			},
			check: checkLakekeeper},
		"the definition's ports, each once": {
			change: func(in *Input) { in.Executable = state.Definition{Ports: []int64{8080, 65535, 8080}} },
			check: func(t *testing.T, job *batchv1.Job) {
				assert.Equal(t, []corev1.ContainerPort{{ContainerPort: 8080}, {ContainerPort: 65535}}, mainContainer(job).Ports)
			}},
		"docker where it is allowed": {
			change: func(in *Input) { in.Run.RequiresDocker, in.Settings.EKS.AllowDockerSocket = true, true },
			check: func(t *testing.T, job *batchv1.Job) {
				assert.Equal(t, "/var/run/docker.sock", mainContainer(job).VolumeMounts[0].MountPath)
				assert.Equal(t, mainContainer(job).VolumeMounts[0].Name, pod(job).Volumes[0].Name)
				assert.Equal(t, "/var/run/docker.sock", pod(job).Volumes[0].HostPath.Path)
			}},
		"a run whose definition is gone": {
			change: func(in *Input) { in.Executable = nil }, check: scriptIs("echo hello")},
	}
}

func checkLakekeeper(t *testing.T, job *batchv1.Job) {
	keys := map[string]string{}
	for _, v := range mainContainer(job).Env[1:] {
		assert.Equal(t, "lakekeeper", v.ValueFrom.SecretKeyRef.Name)
		assert.True(t, *v.ValueFrom.SecretKeyRef.Optional)
		keys[v.Name] = v.ValueFrom.SecretKeyRef.Key
	}
	assert.Equal(t, corev1.EnvVar{Name: "WAREHOUSE", Value: "mine"}, mainContainer(job).Env[0])
	assert.Equal(t, map[string]string{
		"OAUTH2_CLIENT_ID": "client_id", "OAUTH2_CLIENT_SECRET": "client_secret", "OAUTH2_SERVER_URI": "token_url",
		"OAUTH2_SCOPE": "scope", "CATALOG_URI": "uri",
	}, keys)
}

// sizes returns a list's quantities as Kubernetes writes them.
func sizes(list corev1.ResourceList) map[string]string {
	written := map[string]string{}
	for name, amount := range list {
		written[string(name)] = amount.String()
	}
	return written
}

func storageIs(want string) func(t *testing.T, job *batchv1.Job) {
	return func(t *testing.T, job *batchv1.Job) {
		assert.Equal(t, want, sizes(mainContainer(job).Resources.Requests)["ephemeral-storage"])
		assert.NotContains(t, mainContainer(job).Resources.Limits, corev1.ResourceEphemeralStorage)
	}
}

func resourceCases() map[string]jobCase {
	return map[string]jobCase{
		"requests and limits in millicores and MB": {
			change: func(in *Input) {
				in.Resources = adapter.Resources{Size: state.Size{Memory: 896, CPU: 1250}, Limit: state.Size{Memory: 1001, CPU: 2500}}
			},
			check: func(t *testing.T, job *batchv1.Job) {
				assert.Equal(t, map[string]string{"cpu": "1250m", "memory": "896M"}, sizes(mainContainer(job).Resources.Requests))
				assert.Equal(t, map[string]string{"cpu": "2500m", "memory": "1001M"}, sizes(mainContainer(job).Resources.Limits))
			}},
		"the run's storage": {
			change: func(in *Input) {
				in.Run.EphemeralStorage = new(int64(1200))
				in.Executable = state.Definition{EphemeralStorage: new(int64(3000))}
			},
			check: storageIs("1200M")},
		"the definition's storage, at most 5 GB": {
			change: func(in *Input) { in.Executable = state.Definition{EphemeralStorage: new(int64(9000))} },
			check:  storageIs("5G")},
		"GPUs": {
			change: func(in *Input) { in.Resources.GPU = 2 },
			check: func(t *testing.T, job *batchv1.Job) {
				assert.Equal(t, "2", sizes(mainContainer(job).Resources.Requests)["nvidia.com/gpu"])
				assert.Equal(t, "2", sizes(mainContainer(job).Resources.Limits)["nvidia.com/gpu"])
				assert.Equal(t, []corev1.VolumeMount{{Name: "shared-memory", MountPath: "/dev/shm"}}, mainContainer(job).VolumeMounts)
				shared := pod(job).Volumes[0]
				assert.Equal(t, "shared-memory", shared.Name)
				assert.Equal(t, corev1.StorageMediumMemory, shared.EmptyDir.Medium)
				assert.Equal(t, "16Gi", shared.EmptyDir.SizeLimit.String())
				assert.Equal(t, []string{"nvidia.com/gpu=true:NoSchedule"}, tolerated(job))
				assert.EqualValues(t, 604800, *pod(job).ActiveDeadlineSeconds)
			}},
	}
}
