// Package ara decides how much memory and cpu a run gets (Adaptive Resource Allocation, ara.md). Its policies are pure:
// they do no I/O, read no clock, and return the same Decision for the same history and ask. execution/adapter looks
// history up, and measures and logs decisions.
package ara

import "github.com/stitchfix/flotilla-os/state"

// cpuStep is what cpu is rounded to, in millicores: quotas that are not round make cgroups throttle unevenly (ara.md
// section 3, step 6).
const cpuStep = 250

// Runs with this much memory get cpu in proportion, so that they do not take a node's memory and leave its CPUs idle
// (ara.md section 3, step 1). In MB; the upper end is excluded.
const (
	proportionalFrom  = 36_864
	proportionalBelow = 131_072
	memoryPerCPU      = 8 // MB per millicore
)

// Skip is the reason why a decision used no history.
type Skip string

// The reasons to skip history; the empty Skip means that history was used.
const (
	SkipDisabled  Skip = "disabled" // by the configuration or the definition
	SkipGPU       Skip = "gpu"
	SkipNullHash  Skip = "null_command_hash"
	SkipNoHistory Skip = "no_history"
	SkipFailed    Skip = "failed" // the lookup
)

// Rule names what set the size that a run wants.
type Rule string

// The rules.
const (
	RuleAsked      Rule = "asked"
	RuleOOMHistory Rule = "oom-history"
)

// Ask is what is known of a run before its history is looked up.
type Ask struct {
	// Asked is what the run or its definition requests.
	Asked state.Size
	// GPU counts devices.
	GPU int64
	// CommandHash is empty for a run without a command.
	CommandHash string
	// Disabled reports that the run's definition turns ARA off.
	Disabled bool
	// Capacity is what the cluster can hold for one run; 0 is unknown.
	Capacity state.Size
}

// Default returns the size of the run without history: what was asked, with cpu in proportion to much memory as far as
// the cluster can hold it (ara.md section 3, step 1).
func (a Ask) Default() state.Size {
	if a.GPU > 0 || a.Asked.Memory < proportionalFrom || a.Asked.Memory >= proportionalBelow {
		return a.Asked
	}
	return a.Asked.AtLeast(a.cut(state.Size{CPU: a.Asked.Memory / memoryPerCPU}))
}

// cut returns the part of a size that the cluster can hold for one run.
func (a Ask) cut(s state.Size) state.Size {
	if a.Capacity.Memory > 0 {
		s.Memory = min(s.Memory, a.Capacity.Memory)
	}
	if a.Capacity.CPU > 0 {
		s.CPU = min(s.CPU, a.Capacity.CPU)
	}
	return s
}

// History is what memory kills taught about the run's command.
type History struct {
	Learnt state.Size // zero if there were no kills
	Failed bool       // the lookup failed
}

// Decision is one sizing.
type Decision struct {
	Asked  state.Size // Ask.Default
	Learnt state.Size // zero if Skip is set
	Wanted state.Size // Asked, or more if history says so and the cluster can hold it
	Given  state.Size // what the bounds leave of Wanted, with rounded cpu
	Rule   Rule       // what set Wanted
	Skip   Skip
	// HitMemory and HitCPU report that a maximum cut Wanted. Rounding does not count. Most is that maximum.
	HitMemory, HitCPU bool
	Most              state.Size
}

// OOMHistory is the policy of ara.md: a run gets what it asked for, and at least what memory kills of its command
// taught.
type OOMHistory struct {
	Enabled              bool
	Least, Most, MostGPU state.Size
}

// Skip returns why history need not be looked up, or "".
func (p OOMHistory) Skip(ask Ask) Skip {
	switch {
	case !p.Enabled || ask.Disabled:
		return SkipDisabled
	case ask.GPU > 0:
		return SkipGPU
	case ask.CommandHash == "":
		return SkipNullHash
	}
	return ""
}

// Decide sizes a run. A memory kill proves only that more is needed, so what was learnt never lowers what was asked.
// What was learnt is cut to what the cluster can hold, because a larger run would never start; what was asked is not
// (ara.md section 3, step 4).
func (p OOMHistory) Decide(history History, ask Ask) Decision {
	d := Decision{Asked: ask.Default(), Wanted: ask.Default(), Rule: RuleAsked, Skip: p.Skip(ask), Most: p.Most}
	switch {
	case d.Skip != "":
	case history.Failed:
		d.Skip = SkipFailed
	case history.Learnt == state.Size{}:
		d.Skip = SkipNoHistory
	default:
		d.Learnt = history.Learnt
		d.Wanted = d.Asked.AtLeast(ask.cut(d.Learnt))
	}
	if d.Wanted != d.Asked {
		d.Rule = RuleOOMHistory
	}
	if ask.GPU > 0 {
		d.Most = p.MostGPU
	}
	d.HitMemory, d.HitCPU = d.Wanted.Memory > d.Most.Memory, d.Wanted.CPU > d.Most.CPU
	d.Given = d.Wanted.AtLeast(p.Least).AtMost(d.Most)
	// Rounding must not make a run impossible that fits.
	most := d.Most.CPU
	if d.Given.CPU <= ask.Capacity.CPU {
		most = min(most, ask.Capacity.CPU)
	}
	// The nearest step, at least one; the middle goes up, but never past the maximum.
	d.Given.CPU = max((d.Given.CPU+cpuStep/2)/cpuStep*cpuStep, cpuStep)
	if d.Given.CPU > most {
		d.Given.CPU = max(d.Given.CPU-cpuStep, cpuStep)
	}
	return d
}
