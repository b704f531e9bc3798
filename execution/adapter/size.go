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

// defaultSize is what the run asked for, else what its executable says, else the fallback. Rows of the program before
// this one hold what was asked for in memory and cpu alone.
func defaultSize(executable state.Executable, run state.Run) state.Size {
	resources := executable.GetExecutableResources()
	s := state.Size{
		Memory: firstPositive(run.RequestedMemory, run.Memory, resources.Memory, new(int64(fallbackMemory))),
		CPU:    firstPositive(run.RequestedCPU, run.CPU, resources.CPU, new(int64(fallbackCPU))),
	}
	if s.Memory >= proportionalFrom && s.Memory < proportionalBelow && gpus(executable, run) == 0 {
		s.CPU = max(s.CPU, s.Memory/memoryPerCPU)
	}
	return s
}

// AskedSize returns the size that was asked for, in MB and millicores: before history or an earlier attempt changed it.
func AskedSize(executable state.Executable, run state.Run) (memory, cpu int64) {
	if _, given := alreadyGiven(executable, run); given {
		run.Memory, run.CPU = nil, nil
	}
	asked := defaultSize(executable, run)
	return asked.Memory, asked.CPU
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
