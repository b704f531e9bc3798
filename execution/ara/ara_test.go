package ara

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/stitchfix/flotilla-os/state"
)

func TestOOMHistory(t *testing.T) {
	t.Parallel()
	policy := OOMHistory{
		Enabled: true, Least: state.Size{Memory: 512, CPU: 256},
		Most: state.Size{Memory: 350_000, CPU: 60_000}, MostGPU: state.Size{Memory: 376_000, CPU: 94_000},
	}
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
		"nothing learnt leaves what was asked":    {policy: policy, given: ask.Asked},
		"off":                                     {policy: off, history: learnt, given: ask.Asked, skip: SkipDisabled},
		"off by the definition":                   {policy: policy, ask: func(a *Ask) { a.Disabled = true }, history: learnt, given: ask.Asked, skip: SkipDisabled},
		"GPU":                                     {policy: policy, ask: func(a *Ask) { a.GPU = 1 }, history: learnt, given: ask.Asked, skip: SkipGPU},
		"no command":                              {policy: policy, ask: func(a *Ask) { a.CommandHash = "" }, history: learnt, given: ask.Asked, skip: SkipNullHash},
		"a maximum": {policy: policy, history: History{Learnt: state.Size{Memory: 525_000}},
			given: state.Size{Memory: 350_000, CPU: 1000}, hit: true},
		"a minimum and rounding": {policy: policy, ask: func(a *Ask) { a.Asked = state.Size{Memory: 1, CPU: 1} },
			given: state.Size{Memory: 512, CPU: 250}},
	} {
		one := ask
		if tc.ask != nil {
			tc.ask(&one)
		}
		d := tc.policy.Decide(tc.history, one)
		assert.Equal(t, tc.given, d.Given, name)
		assert.Equal(t, tc.skip, d.Skip, name)
		assert.Equal(t, tc.hit, d.HitMemory || d.HitCPU, name)
	}
}
