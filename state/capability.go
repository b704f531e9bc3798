package state

import "strings"

// Capability is something that Jobs may count on in a cluster. A cluster has
// the ones that its row names, and those that its kind implies unless the row
// names them with a leading "no-" (docs/kubernetes.md).
type Capability string

const (
	// CapabilityCapacityType: nodes say by the label
	// karpenter.sh/capacity-type whether they are spot or on-demand.
	CapabilityCapacityType Capability = "capacity-type-affinity"
	// CapabilityArch: nodes are chosen by the label kubernetes.io/arch.
	CapabilityArch Capability = "arch-affinity"
	// CapabilitySharedPool: teams share pools of nodes instead of having
	// their own.
	CapabilitySharedPool Capability = "shared-pool"
	// CapabilityPoolSizing: a team's nodes are divided by the size of runs.
	CapabilityPoolSizing Capability = "pool-sizing"
)

// withoutPrefix before a capability's name takes it away.
const withoutPrefix = "no-"

// Capabilities is a set of capabilities. The nil set is empty.
type Capabilities map[Capability]bool

// Has says whether the set holds a capability.
func (c Capabilities) Has(capability Capability) bool { return c[capability] }

// EffectiveCapabilities are those that the cluster's row names and the implied
// ones, without those that the row takes away.
func (c Cluster) EffectiveCapabilities(implied ...Capability) Capabilities {
	set := Capabilities{}
	for _, capability := range implied {
		set[capability] = true
	}
	for _, named := range c.Capabilities {
		set[Capability(strings.TrimSpace(named))] = true
	}
	for _, named := range c.Capabilities {
		if gone, ok := strings.CutPrefix(strings.TrimSpace(named), withoutPrefix); ok {
			delete(set, Capability(gone))
		}
	}
	return set
}
