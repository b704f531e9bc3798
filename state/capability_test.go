package state

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestEffectiveCapabilities(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		row     []string
		implied []Capability
		want    []Capability
	}{
		"none":                              {},
		"those of the row":                  {row: []string{" shared-pool "}, want: []Capability{CapabilitySharedPool}},
		"those that its kind implies":       {implied: []Capability{CapabilityArch}, want: []Capability{CapabilityArch}},
		"both":                              {row: []string{"pool-sizing"}, implied: []Capability{CapabilityArch}, want: []Capability{CapabilityPoolSizing, CapabilityArch}},
		"the row takes an implied one away": {row: []string{"no-arch-affinity"}, implied: []Capability{CapabilityArch, CapabilityCapacityType}, want: []Capability{CapabilityCapacityType}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Cluster{Capabilities: tc.row}.EffectiveCapabilities(tc.implied...)
			for _, capability := range []Capability{CapabilityArch, CapabilityCapacityType, CapabilityPoolSizing, CapabilitySharedPool} {
				assert.Equal(t, slices.Contains(tc.want, capability), got.Has(capability), capability)
			}
		})
	}
}
