package job

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	batchv1 "k8s.io/api/batch/v1"

	"github.com/stitchfix/flotilla-os/state"
)

// required returns the Job's node requirements, each as "label in a|b".
func required(job *batchv1.Job) []string {
	affinity := pod(job).Affinity
	if affinity == nil {
		return nil
	}
	var all []string
	for _, term := range affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, r := range term.MatchExpressions {
			all = append(all, fmt.Sprintf("%s %s %s", r.Key, strings.ToLower(string(r.Operator)), strings.Join(r.Values, "|")))
		}
	}
	return all
}

// tolerated returns the Job's tolerations, as kubectl writes taints.
func tolerated(job *batchv1.Job) []string {
	var all []string
	for _, t := range pod(job).Tolerations {
		all = append(all, fmt.Sprintf("%s=%s:%s", t.Key, t.Value, t.Effect))
	}
	return all
}

func placed(requirements, tolerations []string) func(t *testing.T, job *batchv1.Job) {
	return func(t *testing.T, job *batchv1.Job) {
		assert.Equal(t, requirements, required(job))
		assert.Equal(t, tolerations, tolerated(job))
		if affinity := pod(job).Affinity; affinity != nil {
			assert.Len(t, affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms, 1,
				"terms are alternatives: with two a node could meet one requirement only")
		}
	}
}

func capable(in *Input, of ...state.Capability) {
	in.Capabilities = state.Cluster{}.EffectiveCapabilities(of...)
}

func placementCases() map[string]jobCase {
	lifecycle := func(word string) func(in *Input) {
		return func(in *Input) {
			capable(in, state.CapabilityCapacityType)
			in.Run.NodeLifecycle = &word
		}
	}
	arch := func(word string) func(in *Input) {
		return func(in *Input) {
			capable(in, state.CapabilityArch)
			in.Run.Arch = &word
		}
	}
	return map[string]jobCase{
		"on-demand only": {
			change: lifecycle("ondemand"), check: placed([]string{"karpenter.sh/capacity-type in on-demand"}, nil)},
		"spot": {
			change: lifecycle("spot"), check: placed([]string{"karpenter.sh/capacity-type in spot|on-demand"}, nil)},
		"no lifecycle is spot": {
			change: func(in *Input) { capable(in, state.CapabilityCapacityType) },
			check:  placed([]string{"karpenter.sh/capacity-type in spot|on-demand"}, nil)},
		"GPUs are on-demand": {
			change: func(in *Input) {
				lifecycle("spot")(in)
				in.Resources.GPU = 1
			},
			check: placed([]string{"karpenter.sh/capacity-type in on-demand"}, []string{"nvidia.com/gpu=true:NoSchedule"})},
		"arm64": {change: arch("arm64"), check: placed([]string{"kubernetes.io/arch in arm64"}, nil)},
		"any other architecture is amd64": {
			change: arch("sparc"), check: placed([]string{"kubernetes.io/arch in amd64"}, nil)},
		"no architecture is amd64": {
			change: func(in *Input) { capable(in, state.CapabilityArch) },
			check:  placed([]string{"kubernetes.io/arch in amd64"}, nil)},
		"neither where the cluster has no such nodes": {
			change: func(in *Input) {
				lifecycle("ondemand")(in)
				arch("arm64")(in)
				in.Capabilities = nil
			},
			check: placed(nil, nil)},
		"all requirements at once": {
			change: func(in *Input) {
				capable(in, state.CapabilityCapacityType, state.CapabilityArch)
				in.Run.Labels = state.Labels{"team": "ml"}
			},
			check: placed([]string{
				"karpenter.sh/capacity-type in spot|on-demand", "kubernetes.io/arch in amd64", "team in ml",
			}, []string{"ml=true:NoSchedule"})},
	}
}

func teamCases() map[string]jobCase {
	team := func(cpu, memory int64, has ...state.Capability) func(in *Input) {
		return func(in *Input) {
			capable(in, has...)
			in.Run.Labels = state.Labels{"team": "ml"}
			in.Run.RequestedCPU, in.Run.RequestedMemory = &cpu, &memory
		}
	}
	sized := func(class string) func(t *testing.T, job *batchv1.Job) {
		return placed([]string{"team in ml", "flotilla-pool in " + class},
			[]string{"ml=true:NoSchedule", "flotilla-pool=" + class + ":NoSchedule"})
	}
	pooled := func(pool string) func(t *testing.T, job *batchv1.Job) {
		return placed([]string{"flotilla-pool in " + pool}, []string{"flotilla-pool=" + pool + ":NoSchedule"})
	}
	sizing, sharing := state.CapabilityPoolSizing, state.CapabilitySharedPool
	return map[string]jobCase{
		"a team's nodes":                       {change: team(250, 512), check: placed([]string{"team in ml"}, []string{"ml=true:NoSchedule"})},
		"a team's small nodes":                 {change: team(2_999, 23_999, sizing), check: sized("s")},
		"a team's medium nodes by cpu":         {change: team(3_000, 512, sizing), check: sized("m")},
		"a team's medium nodes by memory":      {change: team(250, 24_000, sizing), check: sized("m")},
		"a team's large nodes by cpu":          {change: team(14_000, 512, sizing), check: sized("l")},
		"a team's large nodes by memory":       {change: team(250, 131_072, sizing), check: sized("l")},
		"a team's extra large nodes by cpu":    {change: team(30_000, 512, sizing), check: sized("xl")},
		"a team's extra large nodes by memory": {change: team(250, 234_000, sizing), check: sized("xl")},
		"the cpu that memory brings counts":    {change: team(250, 112_000, sizing), check: sized("l")},
		"the shared pool of small runs":        {change: team(250, 512, sharing), check: pooled("standard")},
		"the shared pool of medium runs":       {change: team(3_000, 512, sharing), check: pooled("standard")},
		"the shared pool of large runs":        {change: team(14_000, 512, sharing), check: pooled("large")},
		"the shared pool of extra large runs":  {change: team(30_000, 512, sharing, sizing), check: pooled("xl")},
		"a run without a team has no pool": {
			change: func(in *Input) { capable(in, sharing, sizing) }, check: placed(nil, nil)},
		"a run that waits for data goes anywhere": {
			change: func(in *Input) { in.Run.Labels = state.Labels{"team": "ml", "kube_task_type": "wait_for_data"} },
			check:  placed(nil, nil)},
		"a run with GPUs is not placed by team": {
			change: func(in *Input) {
				in.Run.Labels = state.Labels{"team": "ml"}
				in.Resources.GPU = 1
			},
			check: placed(nil, []string{"nvidia.com/gpu=true:NoSchedule"})},
		"a team's name is made a DNS label": {
			change: func(in *Input) { in.Run.Labels = state.Labels{"team": " Data_Science & ML. "} },
			check: placed([]string{"team in data-science---ml|data_science___ml"},
				[]string{"data-science---ml=true:NoSchedule", "data_science___ml=true:NoSchedule"})},
		"a team's nodes may carry its name as given": {
			change: func(in *Input) { in.Run.Labels = state.Labels{"team": " Data_Science "} },
			check: placed([]string{"team in data-science|Data_Science"},
				[]string{"data-science=true:NoSchedule", "Data_Science=true:NoSchedule"})},
		"a team without a letter is none": {
			change: func(in *Input) { in.Run.Labels = state.Labels{"team": " _- "} },
			check:  placed(nil, nil)},
		"what memory kills taught moves no run to other nodes": {
			change: func(in *Input) {
				team(250, 20_000, sizing)(in)
				in.Run.RequestedCPU, in.Run.AttemptCount = nil, new(int64(2))
				in.Run.Memory, in.Run.MemoryLimit = new(int64(35_000)), new(int64(35_000))
				in.Run.CPU, in.Run.CPULimit = new(int64(4_000)), new(int64(4_000))
			},
			check: sized("s")},
	}
}
