package statetest

import (
	"os"
	"strconv"
	"testing"
)

// benchRunsVariable names how many runs benchmarks have as history. The
// default is quick to make; `make bench` uses a million.
const (
	benchRunsVariable = "FLOTILLA_BENCH_RUNS"
	defaultBenchRuns  = 20_000
)

// BenchRuns is how many runs a benchmark's history has, see SeedHistory.
func BenchRuns(b *testing.B) int {
	b.Helper()
	text := os.Getenv(benchRunsVariable)
	if text == "" {
		return defaultBenchRuns
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		b.Fatalf("%s: %v", benchRunsVariable, err)
	}
	return n
}
