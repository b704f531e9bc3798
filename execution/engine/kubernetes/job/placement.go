package job

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/state"
)

// Labels and taints of nodes on which placement relies (kubernetes.md, Placement).
const (
	nodeCapacityType = "karpenter.sh/capacity-type"
	capacitySpot     = "spot"
	capacityOnDemand = "on-demand"
	nodePool         = "flotilla-pool"
	archAMD64        = "amd64"
	archARM64        = "arm64"
	taintTrue        = "true"
)

// placement is where a run's pod may go.
type placement struct {
	required    []corev1.NodeSelectorRequirement
	tolerations []corev1.Toleration
}

func placementOf(in Input) placement {
	var p placement
	if in.Capabilities.Has(state.CapabilityCapacityType) {
		types := []string{capacitySpot, capacityOnDemand}
		if onDemand(in) {
			types = types[1:]
		}
		p.require(nodeCapacityType, types...)
	}
	if in.Capabilities.Has(state.CapabilityArch) {
		arch := archAMD64
		if in.Run.Arch != nil && *in.Run.Arch == archARM64 {
			arch = archARM64
		}
		p.require(corev1.LabelArchStable, arch)
	}
	if in.Resources.GPU > 0 {
		p.tolerate(resourceGPU, taintTrue)
	}
	if team := Team(in.Run, in.Resources.GPU); team != "" {
		p.placeTeam(in, team)
	}
	return p
}

// placeTeam places a team's run on the nodes of the team, or on those of the pool that teams share. A team's nodes may
// carry its name as a DNS label or as the team is given.
func (p *placement) placeTeam(in Input, team string) {
	size := classOf(in)
	if in.Capabilities.Has(state.CapabilitySharedPool) {
		p.tolerate(nodePool, sharedPools[size])
		p.require(nodePool, sharedPools[size])
		return
	}
	given := strings.TrimSpace(in.Run.Labels[labelTeam])
	if len(validation.IsValidLabelValue(given)) > 0 {
		given = SanitizeLabel(given)
	}
	names := slices.Compact([]string{team, given})
	for _, name := range names {
		p.tolerate(name, taintTrue)
	}
	p.require(labelTeam, names...)
	if in.Capabilities.Has(state.CapabilityPoolSizing) {
		p.tolerate(nodePool, size)
		p.require(nodePool, size)
	}
}

func (p *placement) require(label string, values ...string) {
	p.required = append(p.required, corev1.NodeSelectorRequirement{
		Key: label, Operator: corev1.NodeSelectorOpIn, Values: values,
	})
}

func (p *placement) tolerate(taint, value string) {
	p.tolerations = append(p.tolerations, corev1.Toleration{
		Key: taint, Operator: corev1.TolerationOpEqual, Value: value, Effect: corev1.TaintEffectNoSchedule,
	})
}

// affinity returns nil if any node will do.
func (p *placement) affinity() *corev1.Affinity {
	if len(p.required) == 0 {
		return nil
	}
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: p.required}},
		},
	}}
}

// onDemand reports whether the run must not run on nodes that can be taken away. Runs with GPUs never do.
func onDemand(in Input) bool {
	lifecycle := in.Run.NodeLifecycle
	return in.Resources.GPU > 0 || lifecycle != nil && *lifecycle == state.OndemandLifecycle
}

// sharedPools are the pools that teams share, by the size class of runs.
var sharedPools = map[string]string{"s": "standard", "m": "standard", "l": "large", "xl": "xl"}

// classOf returns the size class by which nodes are chosen. It depends on what was asked for, not on what memory kills
// taught: a run keeps its nodes when it grows, and every attempt goes to the same ones.
func classOf(in Input) string {
	asked := adapter.AskedSize(executableOf(in), in.Run)
	switch {
	case asked.CPU >= 30_000 || asked.Memory >= 234_000:
		return "xl"
	case asked.CPU >= 14_000 || asked.Memory >= 100_000:
		return "l"
	case asked.CPU >= 3_000 || asked.Memory >= 24_000:
		return "m"
	}
	return "s"
}
