package adapter

import "github.com/stitchfix/flotilla-os/state"

// What a run gets where neither it nor its definition says (ara.md section 3, step 1).
const (
	fallbackCPU    = 256 // millicores
	fallbackMemory = 512 // MB
)

// Runs with this much memory get CPU in proportion, so that they do not take a node's memory and leave its CPUs idle
// (ara.md section 3, step 1). In MB; the upper end is excluded.
const (
	proportionalFrom  = 36_864
	proportionalBelow = 131_072
	memoryPerCPU      = 8 // MB per millicore
)

// cpuStep is what CPU is rounded to, in millicores: quotas that are not round make cgroups throttle unevenly.
const cpuStep = 250

// size is memory in MB and cpu in millicores.
type size struct{ memory, cpu int64 }

// atLeast is the greater of both, each for itself: a memory kill proves only that more is needed.
func (s size) atLeast(other size) size {
	return size{memory: max(s.memory, other.memory), cpu: max(s.cpu, other.cpu)}
}

// decision is one sizing, kept whole for those who watch.
type decision struct {
	standard size // the default: what was asked for
	wanted   size // the default, or more where history says so
	final    size // what the bounds left of it, rounded
	gpu      int64
	nullHash bool // history would have counted, but there is no command
}

func (d decision) adjusted() bool { return d.wanted != d.standard }

// defaultSize is what the run asked for, else what its executable says, else the fallback. Rows of the program before
// this one hold what was asked for in memory and cpu alone.
func defaultSize(executable state.Executable, run state.Run) size {
	resources := executable.GetExecutableResources()
	s := size{
		memory: firstPositive(run.RequestedMemory, run.Memory, resources.Memory, new(int64(fallbackMemory))),
		cpu:    firstPositive(run.RequestedCPU, run.CPU, resources.CPU, new(int64(fallbackCPU))),
	}
	if s.memory >= proportionalFrom && s.memory < proportionalBelow && gpus(executable, run) == 0 {
		s.cpu = max(s.cpu, s.memory/memoryPerCPU)
	}
	return s
}

// AskedSize returns the size that was asked for, in MB and millicores: before history or an earlier attempt changed it.
func AskedSize(executable state.Executable, run state.Run) (memory, cpu int64) {
	if _, given := alreadyGiven(executable, run); given {
		run.Memory, run.CPU = nil, nil
	}
	asked := defaultSize(executable, run)
	return asked.memory, asked.cpu
}

// gpus is how many GPUs the run asked for, else how many its executable says.
func gpus(executable state.Executable, run state.Run) int64 {
	return firstPositive(run.GPU, executable.GetExecutableResources().GPU)
}

// firstPositive is 0 where there is none.
func firstPositive(values ...*int64) int64 {
	for _, value := range values {
		if value != nil && *value > 0 {
			return *value
		}
	}
	return 0
}

// alreadyGiven finds the decision that an earlier attempt or an earlier acceptance stored in the run's row.
// Deciding anew would be a decision upon a decision.
func alreadyGiven(executable state.Executable, run state.Run) (Resources, bool) {
	memory, cpu := firstPositive(run.Memory), firstPositive(run.CPU)
	memoryLimit, cpuLimit := firstPositive(run.MemoryLimit), firstPositive(run.CPULimit)
	accepted := memoryLimit > 0 && cpuLimit > 0
	if memory == 0 || cpu == 0 || !accepted && run.Attempt() == 1 {
		return Resources{}, false
	}
	return Resources{
		Size:  state.Size{Memory: memory, CPU: cpu},
		Limit: state.Size{Memory: max(memory, memoryLimit), CPU: max(cpu, cpuLimit)},
		GPU:   gpus(executable, run),
	}, true
}

// bounds are the least and the most that a run gets.
type bounds struct{ least, most size }

func (a *Adapter) boundsFor(gpu int64) bounds {
	b := bounds{
		least: size{memory: a.ara.MinMemory, cpu: a.ara.MinCPU},
		most:  size{memory: a.ara.MaxMemory, cpu: a.ara.MaxCPU},
	}
	if gpu > 0 {
		b.most = size{memory: a.ara.MaxMemoryGPU, cpu: a.ara.MaxCPUGPU}
	}
	return b
}

// apply cuts a size to the bounds and rounds its cpu; rounding up never passes the maximum.
func (b bounds) apply(s size) size {
	cpu := roundCPU(min(max(s.cpu, b.least.cpu), b.most.cpu))
	if cpu > b.most.cpu {
		cpu = max(cpu-cpuStep, cpuStep)
	}
	return size{memory: min(max(s.memory, b.least.memory), b.most.memory), cpu: cpu}
}

// roundCPU is the nearest multiple of cpuStep, at least one; the middle goes up.
func roundCPU(millicores int64) int64 {
	return max((millicores+cpuStep/2)/cpuStep*cpuStep, cpuStep)
}
