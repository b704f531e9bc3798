package local

import (
	"context"
	"log/slog"
	"runtime"
	"testing"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

// BenchmarkRunning measures from Execute to the report of RUNNING, the engine's part of submitting a run; the rows are in
// memory.
func BenchmarkRunning(b *testing.B) {
	r := newRows()
	e, err := New(Config{
		ClusterName: testCluster, DataDir: b.TempDir(), Sizer: fixedSize{}, Store: r, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	defer e.limits.RemoveParents()
	ctx, cancel := context.WithCancel(b.Context())
	running := make(chan string, 1)
	stopped := make(chan string, 1)
	done := make(chan error)
	go func() { done <- e.Follow(ctx, signalling{r, running, stopped}) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	}()
	for range b.N {
		b.StopTimer()
		run := queuedRun(r, "true")
		b.StartTimer()
		if err := e.Execute(ctx, engine.Submission{Run: run, Accept: r.accept(run.RunID)}); err != nil {
			b.Fatal(err)
		}
		<-running
		b.StopTimer()
		<-stopped
		for e.launcher.SparePID() == 0 {
			runtime.Gosched()
		}
		b.StartTimer()
	}
}

type signalling struct {
	*rows
	running, stopped chan string
}

func (s signalling) Observe(ctx context.Context, seen engine.Observation) error {
	if err := s.rows.Observe(ctx, seen); err != nil {
		return err
	}
	switch seen.Status {
	case state.StatusRunning:
		s.running <- seen.RunID
	case state.StatusStopped:
		s.stopped <- seen.RunID
	}
	return nil
}
