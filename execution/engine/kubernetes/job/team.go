package job

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/state"
)

// teamConfigMapPrefix starts the names of the ConfigMaps that register teams.
const teamConfigMapPrefix = "flotilla-team-"

// waitForData is the kube_task_type of runs that only wait; they are not placed by team.
const waitForData = "wait_for_data"

// Team is the team by whose nodes a run is placed, as a DNS label; empty where it is not placed by team: no label
// "team", GPUs, or a run that only waits for data.
func Team(run state.Run, gpu int64) string {
	if gpu > 0 || SanitizeLabel(run.Labels[labelTaskType]) == waitForData {
		return ""
	}
	return dnsLabel(run.Labels[labelTeam])
}

// TeamConfigMap registers a team (as Team answers it) in the namespace of the Jobs, for whatever makes the nodes.
func TeamConfigMap(team, namespace string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{
			Name:      teamConfigMapPrefix + team,
			Namespace: namespace,
			Labels: map[string]string{
				"app.kubernetes.io/managed-by":         "flotilla",
				"flotilla.stitchfix.com/team-registry": "true",
			},
		},
		Data: map[string]string{"team": team},
	}
}
