package e2e

import (
	"database/sql"
	"net/http"
	"strconv"
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

// The cases of Adaptive Resource Allocation (ara.md, section 7) in the whole
// program: requests by HTTP, a real Postgres, processes under real limits.

// kills are n runs of a command that were killed for memory.
type kills struct {
	command     string
	memory, cpu int64 // MB, millicores
	ago         time.Duration
	n           int
}

// araCase is a definition of "true" with 1000 millicores and 600 MB, what
// happened to its runs, and a request to run it.
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
		"killed just within 3 days": {
			history: []kills{{command, 1000, 1000, 72*time.Hour - time.Minute, 1}}, wantMemory: 1750, wantCPU: 1250,
		},
		"killed just beyond 3 days": {
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

func TestWhatHistoryGivesToTheNextRun(t *testing.T) {
	t.Parallel()
	in := newARAInstallation(t)
	s := in.start("one")
	cases, ids := araCases(), map[string]string{}
	for name, c := range cases {
		ids[name] = s.run(in.defineWithHistory(s, c), c.request)
	}
	for name, c := range cases {
		assert.Equal(t, sized{
			memory: c.wantMemory, memoryLimit: c.wantMemory, cpu: c.wantCPU, cpuLimit: c.wantCPU, reason: "Completed",
		}, in.finished(ids[name]), name)
	}
	for metric, want := range map[metrics.Metric]float64{
		metrics.EngineEKSARAEstimationAttempted: 10, metrics.EngineEKSARAEstimationSucceeded: 7,
		metrics.EngineEKSARANoHistoricalData: 3, metrics.EngineEKSARAEstimationFailed: 0,
		metrics.EngineEKSARAResourceAdjustment: 7, metrics.EngineEKSARANullCommandHash: 2,
		metrics.EngineEKSARAHitMaxMemory: 1, metrics.EngineEKSARAHitMaxCPU: 0,
	} {
		assert.InDelta(t, want, s.counted(metric), 0, "%s", metric)
	}
	assert.NotNil(t, s.log.find("Skipping ARA - NULL command_hash"), "the warning")
}

func TestAKillOfOneCommandTeachesThatCommandAlone(t *testing.T) {
	t.Parallel()
	in := newARAInstallation(t)
	s := in.start("one")
	definition := in.defineWithHistory(s, araCase{})
	hungry := object{"command": "head -c 800M /dev/zero | tail | wc -c", "description": "nightly"}
	other := object{"command": "echo fine", "description": "nightly"}

	killed := in.finished(s.run(definition, hungry))
	assert.EqualValues(t, state.ExitCodeOOM, killed.code)
	assert.Equal(t, state.ReasonOOMKilled, killed.reason)
	assert.EqualValues(t, 600, killed.memory)

	assert.EqualValues(t, 600, in.finished(s.run(definition, other)).memory)
	again := in.finished(s.run(definition, hungry))
	assert.EqualValues(t, 1050, again.memory)
	assert.EqualValues(t, 0, again.code)
	assert.EqualValues(t, 600, in.finished(s.run(definition, other)).memory)
}

// The read-only database of these two fails every lookup in its own way; a
// relation that raises is as good as a standby that cancels.
func TestALookupThatFailsHoldsNoRunUp(t *testing.T) {
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
			in := newARAInstallation(t, "READONLY_DATABASE_URL="+replica.URL)
			s := in.start("one")
			definition := in.defineWithHistory(s, araCase{history: []kills{{"true", 1000, 1000, time.Hour, 1}}})

			run := in.finished(s.run(definition, nil))

			assert.EqualValues(t, 600, run.memory)
			assert.EqualValues(t, 0, run.code)
			assert.InDelta(t, 1, s.counted(c.counted), 0)
			assert.InDelta(t, 1, s.counted(metrics.EngineEKSARAEstimationAttempted), 0)
			assert.NotNil(t, s.log.find(c.log), c.log)
		})
	}
}

func newARAInstallation(t *testing.T, env ...string) *installation {
	t.Helper()
	return newInstallation(t, statetest.NewURL(t), append([]string{"METRICS_CLIENT=prometheus"}, env...)...)
}

// defineWithHistory creates the definition of c and what happened to it, and
// answers its id.
func (in *installation) defineWithHistory(s *server, c araCase) string {
	in.t.Helper()
	body := object{
		"alias": "ara-" + state.NewRunID(state.EKSEngine), "group_name": "ara", "image": "none",
		"memory": 600, "cpu": 1000, "command": "true",
	}
	for key, value := range c.definition {
		body[key] = value
	}
	var made struct {
		ID string `json:"definition_id"`
	}
	s.mustCall(http.MethodPost, "/task", body, &made)
	for _, k := range c.history {
		in.exec(`INSERT INTO task (run_id, definition_id, executable_id, engine, status, command, command_hash, memory, cpu,
				queued_at, exit_code, exit_reason, attempt_count)
			SELECT 'eks-' || gen_random_uuid(), $1, $1, 'eks', 'STOPPED', $2, md5($2), $3, $4,
				now() - make_interval(secs => $5), 137, 'OOMKilled', 1
			FROM generate_series(1, $6)`, made.ID, k.command, k.memory, k.cpu, k.ago.Seconds(), k.n)
	}
	return made.ID
}

// run asks for a run and answers its id.
func (s *server) run(definition string, request object) string {
	s.in.t.Helper()
	body := object{"run_tags": object{"owner_id": "ara"}}
	for key, value := range request {
		body[key] = value
	}
	var run struct {
		ID string `json:"run_id"`
	}
	s.mustCall(http.MethodPut, "/task/"+definition+"/execute", body, &run)
	return run.ID
}

// sized is how a run was sized and ended. Memory in MB, cpu in millicores.
type sized struct {
	memory, cpu, memoryLimit, cpuLimit, code int64
	reason                                   string
}

// finished waits for the end of a run.
func (in *installation) finished(id string) sized {
	in.t.Helper()
	var run sized
	var reason sql.NullString
	require.Eventually(in.t, func() bool {
		return in.db.QueryRowContext(in.t.Context(), `SELECT memory, cpu, memory_limit, cpu_limit, exit_code, exit_reason
			FROM task WHERE run_id = $1 AND status = 'STOPPED'`, id).
			Scan(&run.memory, &run.cpu, &run.memoryLimit, &run.cpuLimit, &run.code, &reason) == nil
	}, recovery, 20*time.Millisecond, "run %s does not end", id)
	run.reason = reason.String
	return run
}

// counted is the sum of a counter over all its labels, by /metrics.
func (s *server) counted(m metrics.Metric) float64 {
	s.in.t.Helper()
	var page string
	status, err := call(s.in.t.Context(), http.MethodGet, s.url+"/metrics", nil, &page)
	require.NoError(s.in.t, err)
	require.Equal(s.in.t, http.StatusOK, status)
	name := strings.ReplaceAll(string(m), ".", "_") + "_total"
	sum := 0.0
	for line := range strings.Lines(page) {
		rest, found := strings.CutPrefix(line, name+"{")
		if !found {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndex(rest, " "):]), 64)
		require.NoError(s.in.t, err)
		assert.Contains(s.in.t, rest, `cluster="local"`)
		assert.Contains(s.in.t, rest, `engine="eks"`)
		sum += value
	}
	return sum
}
