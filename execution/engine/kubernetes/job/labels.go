package job

import (
	"strings"

	"github.com/stitchfix/flotilla-os/state"
)

// Labels of every Job and its pod (kubernetes.md, The Job).
const (
	// LabelRunID is how a Job or pod is recognised as a run's.
	LabelRunID       = "flotilla-run-id"
	labelRunMode     = "flotilla-run-mode"
	labelClusterName = "cluster-name"
	labelOwner       = "owner"
	labelTier        = "tier"
	labelWorkflow    = "kube_workflow"
)

// Labels of a run that mean something to us.
const (
	labelTaskName = "kube_task_name"
	labelTaskType = "kube_task_type"
	labelTeam     = "team"
)

// jobControllerPrefix is of labels that the Job controller sets; a Job that brings its own is refused.
const jobControllerPrefix = "batch.kubernetes.io/"

// maxLabel is the most characters of a label's value, and of a DNS label.
const maxLabel = 63

// jobLabels are the labels of a run's Job and pod: what we know of the run, the run's own over it, and over those the
// ones that Flotilla and Kubernetes find it by. Keys are left as they are: the API server says what is wrong with one.
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

// reservedLabel is whether a run's own label of that key is ignored. Those of the Job controller are, as the API
// server would refuse the Job for them.
func reservedLabel(key string) bool {
	switch key {
	case LabelRunID, labelRunMode, labelClusterName, "job-name", "controller-uid":
		return true
	}
	return strings.HasPrefix(key, jobControllerPrefix)
}

// SanitizeLabel makes any text a valid label value: trimmed, in lower case, what a value may not hold as "_", at most
// 63 characters, beginning and ending with a letter or digit. Text without any of those becomes the empty value.
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

// dnsLabel makes any text a valid DNS label, as names, and keys of taints, must be: as SanitizeLabel, and with "-" for
// all that is no letter or digit.
func dnsLabel(text string) string {
	clean := strings.Map(func(r rune) rune {
		if r == '_' || r == '.' {
			return '-'
		}
		return r
	}, SanitizeLabel(text))
	return cut(clean, "-")
}

// cut shortens ASCII text to a label's length, without any of the characters of edges at either end.
func cut(text, edges string) string {
	text = strings.Trim(text, edges)
	if len(text) > maxLabel {
		text = strings.TrimRight(text[:maxLabel], edges)
	}
	return text
}
