package job

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/state"
)

// Labels and taints of nodes that placement counts on (kubernetes.md, Placement).
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
		p.require(nodeCapacityType, capacityTypes(in)...)
	}
	if in.Capabilities.Has(state.CapabilityArch) {
		p.require(corev1.LabelArchStable, archOf(in.Run))
	}
	if in.Resources.GPU > 0 {
		p.tolerate(resourceGPU, taintTrue)
	}
	if team := Team(in.Run, in.Resources.GPU); team != "" {
		p.place(in, team)
	}
	return p
}

// place puts a team's run on the nodes of the team, or on those of the pool that teams share.
func (p *placement) place(in Input, team string) {
	class := classOf(in)
	if in.Capabilities.Has(state.CapabilitySharedPool) {
		p.tolerate(nodePool, sharedPool(class))
		p.require(nodePool, sharedPool(class))
		return
	}
	p.tolerate(team, taintTrue)
	p.require(labelTeam, team)
	if in.Capabilities.Has(state.CapabilityPoolSizing) {
		p.tolerate(nodePool, string(class))
		p.require(nodePool, string(class))
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

// affinity is nil where any node will do.
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

// onDemand is whether the run must not be taken away for want of nodes. GPUs always are on-demand.
func onDemand(in Input) bool {
	lifecycle := in.Run.NodeLifecycle
	return in.Resources.GPU > 0 || lifecycle != nil && *lifecycle == state.OndemandLifecycle
}

func capacityTypes(in Input) []string {
	if onDemand(in) {
		return []string{capacityOnDemand}
	}
	return []string{capacitySpot, capacityOnDemand}
}

func archOf(run state.Run) string {
	if run.Arch != nil && *run.Arch == archARM64 {
		return archARM64
	}
	return archAMD64
}

// class is the size of a run by which nodes are chosen.
type class string

const (
	classSmall      class = "s"
	classMedium     class = "m"
	classLarge      class = "l"
	classExtraLarge class = "xl"
)

// classOf goes by what was asked for, not by what memory kills taught: a run keeps its nodes when it grows, and every
// attempt goes to the same ones.
func classOf(in Input) class {
	memory, cpu := adapter.AskedSize(executableOf(in), in.Run)
	switch {
	case cpu >= 30_000 || memory >= 234_000:
		return classExtraLarge
	case cpu >= 14_000 || memory >= 100_000:
		return classLarge
	case cpu >= 3_000 || memory >= 24_000:
		return classMedium
	}
	return classSmall
}

// sharedPool is the pool, among those that teams share, for runs of a size.
func sharedPool(c class) string {
	switch c {
	case classExtraLarge:
		return "xl"
	case classLarge:
		return "large"
	}
	return "standard"
}
