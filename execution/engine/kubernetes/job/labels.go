package job

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/state"
)

// Labels of every Job and its pod (kubernetes.md, The Job).
const (
	// LabelRunID identifies a Job or pod as a run's.
	LabelRunID       = "flotilla-run-id"
	labelRunMode     = "flotilla-run-mode"
	labelClusterName = "cluster-name"
	labelOwner       = "owner"
	labelTier        = "tier"
	labelWorkflow    = "kube_workflow"
)

// Labels of a run that have a meaning here.
const (
	labelTaskName = "kube_task_name"
	labelTaskType = "kube_task_type"
	labelTeam     = "team"
)

// jobControllerPrefix begins the labels that the Job controller sets; a Job that brings its own is refused.
const jobControllerPrefix = "batch.kubernetes.io/"

// maxLabel is the greatest length of a label's value, and of a DNS label.
const maxLabel = 63

// waitForData is the kube_task_type of runs that only wait; they are not placed by team.
const waitForData = "wait_for_data"

// jobLabels returns the labels of a run's Job and pod: what is known of the run, the run's own labels over it, and over
// those the ones by which Flotilla and Kubernetes find it. Keys stay unchanged: the API server reports what is wrong with
// one.
func jobLabels(run state.Run, mode string) map[string]string {
	labels := map[string]string{
		labelOwner: SanitizeLabel(run.User),
		labelTier:  SanitizeLabel(run.Tier),
	}
	if name, ok := run.Labels[labelTaskName]; ok {
		labels[labelWorkflow] = SanitizeLabel(name)
	}
	for key, value := range run.Labels {
		if !reservedLabel(key) {
			labels[key] = SanitizeLabel(value)
		}
	}
	labels[labelClusterName] = SanitizeLabel(run.ClusterName)
	labels[LabelRunID] = SanitizeLabel(run.RunID)
	labels[labelRunMode] = SanitizeLabel(mode)
	return labels
}

// reservedLabel reports whether a run's own label of that key is ignored. Flotilla's win over it, and the API server
// would refuse the Job for those of the Job controller.
func reservedLabel(key string) bool {
	switch key {
	case LabelRunID, labelRunMode, labelClusterName, "job-name", "controller-uid":
		return true
	}
	return strings.HasPrefix(key, jobControllerPrefix)
}

// Team returns the team by whose nodes a run is placed, as a DNS label. It is empty if the run is not placed by team: it
// has no label "team", it has GPUs, or it only waits for data.
func Team(run state.Run, gpu int64) string {
	if gpu > 0 || SanitizeLabel(run.Labels[labelTaskType]) == waitForData {
		return ""
	}
	return dnsLabel(run.Labels[labelTeam])
}

// TeamConfigMap returns the ConfigMap that registers a team, as returned by Team, for whatever makes the nodes.
func TeamConfigMap(team, namespace string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{
			Name:      "flotilla-team-" + team,
			Namespace: namespace,
			Labels: map[string]string{
				"app.kubernetes.io/managed-by":         "flotilla",
				"flotilla.stitchfix.com/team-registry": "true",
			},
		},
		Data: map[string]string{"team": team},
	}
}

// SanitizeLabel makes any text a valid label value: trimmed, in lower case, with "_" for what a value may not hold, of at
// most 63 characters, beginning and ending with a letter or digit. Text without a letter or digit becomes empty.
func SanitizeLabel(text string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '.', r == '_':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '_'
	}, strings.TrimSpace(text))
	return cut(clean, "-_.")
}

// dnsLabel makes any text a valid DNS label, which names and the keys of taints must be: as SanitizeLabel, with "-" for
// everything that is not a letter or digit.
func dnsLabel(text string) string {
	return cut(strings.NewReplacer("_", "-", ".", "-").Replace(SanitizeLabel(text)), "-")
}

// cut shortens ASCII text to a label's length and removes the edge characters from both ends.
func cut(text, edges string) string {
	text = strings.Trim(text, edges)
	if len(text) > maxLabel {
		text = strings.TrimRight(text[:maxLabel], edges)
	}
	return text
}
