package shim_test

import (
	"testing"

	"github.com/stitchfix/flotilla-os/execution/engine/local/limits"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim"
)

// BenchmarkStart measures from a prepared folder to "started" in it, the shim's own part of the way to RUNNING.
func BenchmarkStart(b *testing.B) {
	limit, err := limits.Probe(limits.ProbeConfig{Mode: limits.ModeAuto, Name: "flotilla-bench"})
	if err != nil {
		b.Fatal(err)
	}
	defer limit.RemoveParents()
	data := b.TempDir()
	for i := range b.N {
		b.StopTimer()
		spec := shim.Spec{RunID: "bench", Attempt: i, Argv: []string{"bash", "-l", "-cex", "true"}, MemoryLimitMB: 512, Limits: limit}
		folder := shim.AttemptFolder(data, spec.RunID, spec.Attempt)
		b.StartTimer()
		if err := folder.Prepare(spec); err != nil {
			b.Fatal(err)
		}
		a, err := launch(folder)
		b.StopTimer()
		if err != nil {
			b.Fatal(err)
		}
		if err := a.Wait(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
