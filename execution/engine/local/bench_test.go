package local

import "testing"

// BenchmarkStart measures from a prepared folder to "started" in it, the shim's own part of the way to RUNNING.
func BenchmarkStart(b *testing.B) {
	limits, err := ProbeLimits(ProbeConfig{Mode: ModeAuto, Name: "flotilla-bench"})
	if err != nil {
		b.Fatal(err)
	}
	defer removeParents(limits)
	data := b.TempDir()
	for i := range b.N {
		b.StopTimer()
		spec := Spec{RunID: "bench", Attempt: i, Argv: []string{"bash", "-l", "-cex", "true"}, MemoryLimitMB: 512, Limits: limits}
		folder := AttemptFolder(data, spec.RunID, spec.Attempt)
		b.StartTimer()
		if err := folder.Prepare(spec); err != nil {
			b.Fatal(err)
		}
		a, err := launch(ownProgram, folder)
		b.StopTimer()
		if err != nil {
			b.Fatal(err)
		}
		if err := a.wait(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
