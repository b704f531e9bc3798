package ara

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/stitchfix/flotilla-os/state"
)

var policy = OOMHistory{
	Enabled: true, Least: state.Size{Memory: 512, CPU: 256},
	Most: state.Size{Memory: 350_000, CPU: 60_000}, MostGPU: state.Size{Memory: 376_000, CPU: 94_000},
}

func TestOOMHistory(t *testing.T) {
	t.Parallel()
	off := policy
	off.Enabled = false
	ask := Ask{Asked: state.Size{Memory: 1024, CPU: 1000}, CommandHash: "h"}
	learnt := History{Learnt: state.Size{Memory: 1792, CPU: 900}}
	for name, tc := range map[string]struct {
		policy  OOMHistory
		ask     func(*Ask)
		history History
		given   state.Size
		skip    Skip
		hit     bool
	}{
		"what was learnt raises and never lowers": {policy: policy, history: learnt, given: state.Size{Memory: 1792, CPU: 1000}},
		"nothing learnt leaves what was asked":    {policy: policy, given: ask.Asked, skip: SkipNoHistory},
		"a failed lookup leaves what was asked":   {policy: policy, history: History{Failed: true}, given: ask.Asked, skip: SkipFailed},
		"off":                                     {policy: off, history: learnt, given: ask.Asked, skip: SkipDisabled},
		"off by the definition":                   {policy: policy, ask: func(a *Ask) { a.Disabled = true }, history: learnt, given: ask.Asked, skip: SkipDisabled},
		"GPU":                                     {policy: policy, ask: func(a *Ask) { a.GPU = 1 }, history: learnt, given: ask.Asked, skip: SkipGPU},
		"no command":                              {policy: policy, ask: func(a *Ask) { a.CommandHash = "" }, history: learnt, given: ask.Asked, skip: SkipNullHash},
		"a maximum": {policy: policy, history: History{Learnt: state.Size{Memory: 525_000}},
			given: state.Size{Memory: 350_000, CPU: 1000}, hit: true},
		"a minimum and rounding": {policy: policy, ask: func(a *Ask) { a.Asked = state.Size{Memory: 1, CPU: 1} },
			given: state.Size{Memory: 512, CPU: 250}, skip: SkipNoHistory},
	} {
		one := ask
		if tc.ask != nil {
			tc.ask(&one)
		}
		d := tc.policy.Decide(tc.history, one)
		assert.Equal(t, tc.given, d.Given, name)
		assert.Equal(t, tc.skip, d.Skip, name)
		assert.Equal(t, tc.hit, d.HitMemory || d.HitCPU, name)
		if d.Skip == "" {
			assert.Equal(t, RuleOOMHistory, d.Rule, name)
			assert.Equal(t, tc.history.Learnt, d.Learnt, name)
		} else {
			assert.Equal(t, RuleAsked, d.Rule, name)
			assert.Zero(t, d.Learnt, name)
		}
	}
}

func TestCapacity(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		asked, learnt, capacity, given state.Size
	}{
		"what was learnt is cut": {
			asked: state.Size{Memory: 512, CPU: 1000}, learnt: state.Size{Memory: 1568, CPU: 2000},
			capacity: state.Size{Memory: 1500, CPU: 1500}, given: state.Size{Memory: 1500, CPU: 1500}},
		"never below what was asked": {
			asked: state.Size{Memory: 2000, CPU: 3000}, learnt: state.Size{Memory: 3500, CPU: 4000},
			capacity: state.Size{Memory: 1500, CPU: 1500}, given: state.Size{Memory: 2000, CPU: 3000}},
		"what was asked is not cut": {
			asked: state.Size{Memory: 2000, CPU: 3000}, capacity: state.Size{Memory: 1500, CPU: 1500},
			given: state.Size{Memory: 2000, CPU: 3000}},
		"zero is unknown": {
			asked: state.Size{Memory: 512, CPU: 1000}, learnt: state.Size{Memory: 1568, CPU: 2000},
			capacity: state.Size{Memory: 1500}, given: state.Size{Memory: 1500, CPU: 2000}},
		"proportional cpu is cut": {
			asked: state.Size{Memory: 40_000, CPU: 1000}, capacity: state.Size{Memory: 64_000, CPU: 4000},
			given: state.Size{Memory: 40_000, CPU: 4000}},
		"proportional cpu is not cut below what was asked": {
			asked: state.Size{Memory: 40_000, CPU: 4500}, capacity: state.Size{Memory: 64_000, CPU: 4000},
			given: state.Size{Memory: 40_000, CPU: 4500}},
		"rounding stays within the capacity": {
			asked: state.Size{Memory: 40_000, CPU: 1000}, capacity: state.Size{Memory: 64_000, CPU: 4200},
			given: state.Size{Memory: 40_000, CPU: 4000}},
	} {
		d := policy.Decide(History{Learnt: tc.learnt}, Ask{Asked: tc.asked, CommandHash: "h", Capacity: tc.capacity})
		assert.Equal(t, tc.given, d.Given, name)
		assert.False(t, d.HitMemory || d.HitCPU, "%s: the capacity is not a maximum of the policy", name)
	}
}

// A job that needs 1,200 MB on a machine of 1,500 MB grows until it fits.
func TestSizesGrowUpToTheCapacity(t *testing.T) {
	t.Parallel()
	ask := Ask{Asked: state.Size{Memory: 512, CPU: 250}, CommandHash: "h", Capacity: state.Size{Memory: 1500, CPU: 2000}}
	var history History
	for _, want := range []int64{512, 896, 1500} {
		d := policy.Decide(history, ask)
		assert.Equal(t, want, d.Given.Memory)
		history.Learnt = state.Size{Memory: d.Given.Memory * 7 / 4, CPU: d.Given.CPU * 5 / 4}
	}
}
