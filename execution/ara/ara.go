// Package ara decides how much memory and cpu a run gets (Adaptive Resource
// Allocation, ara.md). Its policies are pure: they do no I/O, read no clock, and
// the same history and ask give the same Decision. Looking history up, and
// measuring and logging decisions, is the part of execution/adapter.
package ara

import "github.com/stitchfix/flotilla-os/state"

// cpuStep is what cpu is rounded to, in millicores: quotas that are not round
// make cgroups throttle unevenly (ara.md section 3, step 6).
const cpuStep = 250

// Skip is why history does not count for a run.
type Skip string

// The reasons to skip history. The empty Skip is none.
const (
	SkipDisabled Skip = "disabled" // by the configuration or the definition
	SkipGPU      Skip = "gpu"
	SkipNullHash Skip = "null_command_hash"
)

// Ask is what is known of a run before its history is looked up.
type Ask struct {
	// Asked is the default size (ara.md section 3, step 1).
	Asked state.Size
	// GPU counts devices.
	GPU int64
	// CommandHash is empty for a run without a command.
	CommandHash string
	// Disabled reports that the run's definition turns ARA off.
	Disabled bool
}

// History is what was learnt of the run's command; zero is nothing.
type History struct{ Learnt state.Size }

// Decision is one sizing.
type Decision struct {
	Asked  state.Size
	Wanted state.Size // asked, or more if history says so
	Given  state.Size // what the bounds leave of it, with rounded cpu
	Skip   Skip
	// HitMemory and HitCPU report that a maximum cut Wanted; rounding does not
	// count. Most is that maximum.
	HitMemory, HitCPU bool
	Most              state.Size
}

// Adjusted reports whether history asked for more than the run did.
func (d Decision) Adjusted() bool { return d.Wanted != d.Asked }

// OOMHistory is the policy of ara.md: a run gets what it asked for, and at least
// what memory kills of its command taught.
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

// Decide sizes a run. A memory kill proves only that more is needed, so what
// was learnt never lowers what was asked.
func (p OOMHistory) Decide(history History, ask Ask) Decision {
	d := Decision{Asked: ask.Asked, Wanted: ask.Asked, Skip: p.Skip(ask), Most: p.Most}
	if d.Skip == "" {
		d.Wanted = ask.Asked.AtLeast(history.Learnt)
	}
	if ask.GPU > 0 {
		d.Most = p.MostGPU
	}
	d.HitMemory, d.HitCPU = d.Wanted.Memory > d.Most.Memory, d.Wanted.CPU > d.Most.CPU
	d.Given = d.Wanted.AtLeast(p.Least).AtMost(d.Most)
	// The nearest step, at least one; the middle goes up, but never past the maximum.
	d.Given.CPU = max((d.Given.CPU+cpuStep/2)/cpuStep*cpuStep, cpuStep)
	if d.Given.CPU > d.Most.CPU {
		d.Given.CPU = max(d.Given.CPU-cpuStep, cpuStep)
	}
	return d
}
