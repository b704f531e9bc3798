package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/metrics"
	"github.com/stitchfix/flotilla-os/services"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

// The tests of this file are the cases of Adaptive Resource Allocation (ara.md, section 7) in the whole program: requests
// over HTTP, a real Postgres, processes under real limits.

// kills describes n runs of a command that were killed for memory.
type kills struct {
	command     string
	memory, cpu int64 // MB, millicores
	ago         time.Duration
	n           int
}

// araCase holds fields of a definition of "true" with 1000 millicores and 600 MB, the history of its runs, and a
// request to run it.
type araCase struct {
	definition, request object
	history             []kills
	wantMemory, wantCPU int64
}

func araCases() map[string]araCase {
	const command = "true"
	return map[string]araCase{
		"no history": {wantMemory: 600, wantCPU: 1000},
		"killed at 1024, 1792 and 1024 MB": {
			history:    []kills{{command, 1024, 1000, 3 * time.Hour, 1}, {command, 1792, 1000, 2 * time.Hour, 1}, {command, 1024, 1000, time.Hour, 1}},
			wantMemory: 3136, wantCPU: 1250,
		},
		"the 30 newest of 31 kills count": {
			history:    []kills{{command, 9000, 9000, 2 * time.Hour, 1}, {command, 1000, 800, time.Hour, 30}},
			wantMemory: 1750, wantCPU: 1000,
		},
		"killed within 3 days": {
			history: []kills{{command, 1000, 1000, 72*time.Hour - time.Hour, 1}}, wantMemory: 1750, wantCPU: 1250,
		},
		"killed more than 3 days ago": {
			history: []kills{{command, 1000, 1000, 72*time.Hour + time.Minute, 1}}, wantMemory: 600, wantCPU: 1000,
		},
		"another command was killed": {
			history: []kills{{"false", 1000, 1000, time.Hour, 1}}, wantMemory: 600, wantCPU: 1000,
		},
		"the request's command is what counts": {
			request: object{"command": "echo"},
			history: []kills{{command, 5000, 5000, time.Hour, 1}, {"echo", 1000, 1000, time.Hour, 1}}, wantMemory: 1750, wantCPU: 1250,
		},
		"a GPU asked for by the request": {
			request: object{"gpu": 1},
			history: []kills{{command, 1000, 1000, time.Hour, 1}}, wantMemory: 600, wantCPU: 1000,
		},
		"a GPU asked for by the definition": {
			definition: object{"gpu": 1},
			history:    []kills{{command, 1000, 1000, time.Hour, 1}}, wantMemory: 600, wantCPU: 1000,
		},
		"turned off by the definition": {
			definition: object{"adaptive_resource_allocation": false},
			history:    []kills{{command, 1000, 1000, time.Hour, 1}}, wantMemory: 600, wantCPU: 1000,
		},
		"an estimate below what the definition gives": {
			definition: object{"memory": 4096},
			history:    []kills{{command, 1000, 2000, time.Hour, 1}}, wantMemory: 4096, wantCPU: 2500,
		},
		"an estimate below what the request asks for": {
			request: object{"cpu": 3000},
			history: []kills{{command, 1000, 1000, time.Hour, 1}}, wantMemory: 1750, wantCPU: 3000,
		},
		"never more than the maximum": {
			history: []kills{{command, 300_000, 1000, time.Hour, 1}}, wantMemory: 350_000, wantCPU: 1250,
		},
		"no command": {
			definition: object{"command": nil}, request: object{"description": "no fallback"},
			history: []kills{{"no fallback", 1000, 1000, time.Hour, 1}}, wantMemory: 600, wantCPU: 1000,
		},
		"an empty command": {
			definition: object{"command": ""}, request: object{"command": "", "command_hash": services.CommandHash("x")},
			history: []kills{{"x", 1000, 1000, time.Hour, 1}}, wantMemory: 600, wantCPU: 1000,
		},
	}
}

func TestARASizesRunsByTheirHistory(t *testing.T) {
	t.Parallel()
	in := newARAInstallation(t)
	s := in.serve("one")
	cases, ids := araCases(), map[string]string{}
	for name, c := range cases {
		ids[name] = s.run(s.defineWithHistory(c), c.request)
	}
	for name, c := range cases {
		run := s.awaitStopped(ids[name])
		assert.Equal(t, c.wantMemory, run.Memory, "%s: memory", name)
		assert.Equal(t, c.wantMemory, run.MemoryLimit, "%s: memory limit", name)
		assert.Equal(t, c.wantCPU, run.CPU, "%s: CPU", name)
		assert.Equal(t, c.wantCPU, run.CPULimit, "%s: CPU limit", name)
		assert.Equal(t, int64(0), run.code(), "%s: exit code", name)
		assert.Equal(t, "Completed", run.ExitReason, "%s: exit reason", name)
	}
	for metric, want := range map[metrics.Metric]float64{
		metrics.EngineEKSARAEstimationAttempted: 10, metrics.EngineEKSARAEstimationSucceeded: 7,
		metrics.EngineEKSARANoHistoricalData: 3, metrics.EngineEKSARAEstimationFailed: 0,
		metrics.EngineEKSARAResourceAdjustment: 7, metrics.EngineEKSARANullCommandHash: 2,
		metrics.EngineEKSARAHitMaxMemory: 1, metrics.EngineEKSARAHitMaxCPU: 0,
	} {
		assert.InDelta(t, want, s.counted(metric), 0, "%s", metric)
	}
	assert.NotNil(t, s.output.find("Skipping ARA - NULL command_hash"), "the warning")
}

func TestARALearnsForTheKilledCommandOnly(t *testing.T) {
	t.Parallel()
	s := newARAInstallation(t).serve("one")
	definition := s.defineWithHistory(araCase{})
	hungry := object{"command": "head -c 800M /dev/zero | tail | wc -c", "description": "nightly"}
	other := object{"command": "echo fine", "description": "nightly"}

	killed := s.awaitStopped(s.run(definition, hungry))
	assert.EqualValues(t, state.ExitCodeOOM, killed.code())
	assert.Equal(t, state.ReasonOOMKilled, killed.ExitReason)
	assert.EqualValues(t, 600, killed.Memory)

	assert.EqualValues(t, 600, s.awaitStopped(s.run(definition, other)).Memory)
	again := s.awaitStopped(s.run(definition, hungry))
	assert.EqualValues(t, 1050, again.Memory)
	assert.EqualValues(t, 0, again.code())
	assert.EqualValues(t, 600, s.awaitStopped(s.run(definition, other)).Memory)
}

// The read-only databases of this test fail every lookup, each in its own way. A relation that raises the error of a
// standby stands for a standby that cancels the query.
func TestARALookupFailureDoesNotStopARun(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		replica string
		counted metrics.Metric
		log     string
	}{
		"the query fails": {
			`SELECT`, metrics.EngineEKSARAEstimationFailed, "ARA: Error querying historical resource data",
		},
		"the replica cancels in favour of recovery": {
			`ALTER TABLE task RENAME TO task_itself;
			CREATE FUNCTION conflict() RETURNS SETOF task_itself LANGUAGE plpgsql AS
				$$ BEGIN RAISE 'canceling statement due to conflict with recovery' USING ERRCODE = '40001'; END $$;
			CREATE VIEW task AS SELECT * FROM conflict()`,
			metrics.EngineEKSARANoHistoricalData, "resource history was not read because the replica was busy",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			replica := pgtest.New(t)
			if strings.Contains(c.replica, "ALTER") {
				require.NoError(t, statetest.Migrate(t.Context(), replica.URL))
			}
			_, err := replica.Open(t).ExecContext(t.Context(), c.replica)
			require.NoError(t, err)
			s := newARAInstallation(t, "READONLY_DATABASE_URL="+replica.URL).serve("one")
			definition := s.defineWithHistory(araCase{history: []kills{{"true", 1000, 1000, time.Hour, 1}}})

			run := s.awaitStopped(s.run(definition))

			assert.EqualValues(t, 600, run.Memory)
			assert.EqualValues(t, 0, run.code())
			assert.InDelta(t, 1, s.counted(c.counted), 0)
			assert.InDelta(t, 1, s.counted(metrics.EngineEKSARAEstimationAttempted), 0)
			assert.NotNil(t, s.output.find(c.log), c.log)
		})
	}
}

func newARAInstallation(t *testing.T, env ...string) *installation {
	t.Helper()
	return newInstallation(t, statetest.NewURL(t), append([]string{"METRICS_CLIENT=prometheus"}, env...)...)
}

// defineWithHistory creates the definition and the history of c and returns the definition's id.
func (s *server) defineWithHistory(c araCase) string {
	s.in.t.Helper()
	id := s.define("true", object{"memory": 600, "cpu": 1000}, c.definition)
	for _, k := range c.history {
		s.in.exec(`INSERT INTO task (run_id, definition_id, executable_id, engine, status, command, command_hash, memory, cpu,
				queued_at, exit_code, exit_reason, attempt_count)
			SELECT 'eks-' || gen_random_uuid(), $1, $1, 'eks', 'STOPPED', $2, md5($2), $3, $4,
				now() - make_interval(secs => $5), 137, 'OOMKilled', 1
			FROM generate_series(1, $6)`, id, k.command, k.memory, k.cpu, k.ago.Seconds(), k.n)
	}
	return id
}
