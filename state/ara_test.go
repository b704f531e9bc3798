package state_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
)

// killed stores a run of the command "echo hello" that was killed for memory some time ago, changed by set.
func (s store) killed(t testing.TB, memory, cpu int64, ago time.Duration, set string) {
	t.Helper()
	r := s.run(t, state.StatusStopped, func(r *state.Run) { r.QueuedAt = new(time.Now().Add(-ago)) })
	s.force(t, r.RunID, `memory = $2, cpu = $3, exit_code = 137, exit_reason = 'OOMKilled'`, memory, cpu)
	if set != "" {
		s.force(t, r.RunID, set)
	}
}

func estimate(t testing.TB, s store) (state.Size, error) {
	t.Helper()
	return s.EstimateRunResources(t.Context(), "def", *md5Of("echo hello"))
}

func TestMemoryKillsOfACommandTeachWhatItNeeds(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for i, memory := range []int64{1024, 1792, 1024} {
		s.killed(t, memory, 1000, time.Duration(i)*time.Hour, "")
	}
	got, err := estimate(t, s)
	require.NoError(t, err)
	assert.Equal(t, state.Size{Memory: 3136, CPU: 1250}, got)
}

func TestOnlyTheThirtyNewestMemoryKillsTeach(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for i := range 30 {
		s.killed(t, 1000, 1000, time.Duration(i+1)*time.Minute, "")
	}
	s.killed(t, 9000, 9000, 31*time.Minute, "")
	got, err := estimate(t, s)
	require.NoError(t, err)
	assert.Equal(t, state.Size{Memory: 1750, CPU: 1250}, got)
}

func TestWhichRunsTeach(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for name, c := range map[string]struct {
		ago     time.Duration
		set     string
		teaches bool
	}{
		"killed for memory":                     {0, "", true},
		"code 137 alone":                        {0, `exit_reason = NULL`, true},
		"reason OOMKilled with another code":    {0, `exit_code = 1`, true},
		"reason OOMKilled with an unknown code": {0, `exit_code = NULL`, true},
		"a child killed, the command survived":  {0, `exit_code = 0`, false},
		"failed otherwise":                      {0, `exit_code = 1, exit_reason = 'Error'`, false},
		"just within 3 days":                    {72*time.Hour - time.Minute, "", true},
		"just beyond 3 days":                    {72*time.Hour + time.Minute, "", false},
		"another command":                       {0, `command_hash = md5('true')`, false},
		"no command":                            {0, `command_hash = NULL`, false},
		"another definition":                    {0, `definition_id = 'other'`, false},
		"another engine":                        {0, `engine = 'eks-spark'`, false},
		"memory unknown":                        {0, `memory = NULL`, false},
		"cpu unknown":                           {0, `cpu = NULL`, false},
		"a run of a template":                   {0, `executable_type = 'template'`, true},
	} {
		s.killed(t, 1000, 1000, c.ago, c.set)
		got, err := estimate(t, s)
		if c.teaches {
			require.NoError(t, err, name)
			assert.Equal(t, state.Size{Memory: 1750, CPU: 1250}, got, name)
		} else {
			assert.ErrorAs(t, err, new(state.MissingResource), name)
		}
		s.exec(t, `DELETE FROM task`)
	}
}

func TestAnEstimateAboveTheIntegerRangeIsNoError(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.killed(t, 2_000_000_000, 1000, 0, "")
	got, err := estimate(t, s)
	require.NoError(t, err)
	assert.Equal(t, int64(3_500_000_000), got.Memory)
}

func TestTheConfigurationBoundsWhatTeaches(t *testing.T) {
	t.Parallel()
	s := newStore(t, func(c *state.ManagerConfig) {
		c.ARA.Window, c.ARA.Sample, c.ARA.MemoryMultiplier, c.ARA.CPUMultiplier = time.Hour, 1, 3, 2
	})
	s.killed(t, 1000, 1000, time.Minute, "")
	s.killed(t, 5000, 5000, 2*time.Minute, "")
	got, err := estimate(t, s)
	require.NoError(t, err)
	assert.Equal(t, state.Size{Memory: 3000, CPU: 2000}, got)
	s.exec(t, `UPDATE task SET queued_at = queued_at - INTERVAL '1 hour'`)
	_, err = estimate(t, s)
	assert.ErrorAs(t, err, new(state.MissingResource))
}

func TestARAReadsTheReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	replica := newStore(t)
	replica.killed(t, 1000, 1000, 0, "")
	s := newStore(t, func(c *state.ManagerConfig) { c.ReadonlyURL = replica.url })
	got, err := estimate(t, s)
	require.NoError(t, err)
	assert.Equal(t, int64(1750), got.Memory)
}

// ran stores a run of the command "echo hello" that ended after d.
func (s store) ran(t testing.TB, d, ago time.Duration) state.Run {
	t.Helper()
	r := s.run(t, state.StatusStopped)
	start := time.Now().Add(-ago)
	s.force(t, r.RunID, `started_at = $2, finished_at = $3`, start, start.Add(d))
	return r
}

func TestRuntimeIsTheP95OfTheCommandsWeek(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	ask := func() (float64, error) { return s.EstimateRuntime(t.Context(), "def", *md5Of("echo hello")) }
	_, err := ask()
	assert.ErrorAs(t, err, new(state.MissingResource))

	for i := range 20 {
		s.ran(t, time.Duration(i+1)*time.Minute, time.Hour)
	}
	s.ran(t, 100*time.Hour, 7*24*time.Hour+time.Minute)
	other := s.ran(t, 100*time.Hour, time.Hour)
	s.force(t, other.RunID, `command_hash = md5('true')`)
	s.run(t, state.StatusRunning)
	minutes, err := ask()
	require.NoError(t, err)
	assert.InDelta(t, 19, minutes, 0.001)
}

func TestReattemptRateIsOfRecentSpotRuns(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	rate, err := s.ReattemptRate(t.Context())
	require.NoError(t, err)
	assert.Zero(t, rate)
	attempts := func(n int, set string) {
		r := s.run(t, state.StatusStopped)
		s.force(t, r.RunID, `attempt_count = $2`, n)
		if set != "" {
			s.force(t, r.RunID, set)
		}
	}
	attempts(2, "")
	for range 3 {
		attempts(1, "")
	}
	attempts(3, `node_lifecycle = 'ondemand'`)
	attempts(3, `queued_at = now() - INTERVAL '19 minutes'`)
	s.run(t, state.StatusQueued)
	rate, err = s.ReattemptRate(t.Context())
	require.NoError(t, err)
	assert.InDelta(t, 0.25, rate, 0.0001)
}

func TestSparkHistoryIsThatOfTheCommand(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	hash := *md5Of("echo hello")
	_, err := s.EstimateExecutorCount(t.Context(), "def", hash)
	assert.ErrorAs(t, err, new(state.MissingResource))
	oom, err := s.ExecutorOOM(t.Context(), "def", hash)
	require.NoError(t, err)
	assert.False(t, oom)

	for _, extension := range []string{
		`{"spark_submit_job_driver": {"num_executors": 4}, "executor_oom": true}`,
		`{"spark_submit_job_driver": {"num_executors": 9}, "driver_oom": false}`, `null`,
	} {
		r := s.ran(t, time.Minute, time.Hour)
		s.force(t, r.RunID, `engine = 'eks-spark', spark_extension = $2`, extension)
	}
	other := s.ran(t, time.Minute, time.Hour)
	s.force(t, other.RunID, `engine = 'eks-spark', command_hash = md5('true'),
		spark_extension = '{"spark_submit_job_driver": {"num_executors": 99}, "driver_oom": true}'`)

	executors, err := s.EstimateExecutorCount(t.Context(), "def", hash)
	require.NoError(t, err)
	assert.Equal(t, int64(9), executors)
	oom, err = s.ExecutorOOM(t.Context(), "def", hash)
	require.NoError(t, err)
	assert.True(t, oom)
	oom, err = s.DriverOOM(t.Context(), "def", hash)
	require.NoError(t, err)
	assert.False(t, oom)
}

func TestVerifyARACountsWrongHashesAndAdjustments(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		set  string
		want state.ARAReport
	}{
		"nothing wrong":               {`alias = alias`, state.ARAReport{}},
		"a command without a hash":    {`command_hash = NULL`, state.ARAReport{CommandsWithoutHash: 1}},
		"the hash of a description":   {`command_hash = md5(description)`, state.ARAReport{WrongHashes: 1}},
		"a hash without a command":    {`command = NULL`, state.ARAReport{WrongHashes: 1, WithoutCommand: 1}},
		"no command":                  {`command = NULL, command_hash = NULL`, state.ARAReport{WithoutCommand: 1}},
		"an old empty command":        {`command = '', command_hash = NULL`, state.ARAReport{WithoutCommand: 1}},
		"a hash of two commands":      {`command = 'true'`, state.ARAReport{WrongHashes: 1, SharedHashes: 1}},
		"queued before":               {`command = 'true', queued_at = now() - INTERVAL '2 hours'`, state.ARAReport{Runs: -1}},
		"killed for memory":           {`exit_code = 137`, state.ARAReport{OOMKills: 1}},
		"a surviving command":         {`exit_code = 0, exit_reason = 'OOMKilled'`, state.ARAReport{}},
		"given more than asked for":   {`attempt_count = 1, memory = 896, requested_memory = 512`, state.ARAReport{Adjusted: 1}},
		"given what was asked for":    {`attempt_count = 1, memory = 896, requested_memory = 896`, state.ARAReport{}},
		"more than the definition's":  {`attempt_count = 1, memory = 513`, state.ARAReport{Adjusted: 1}},
		"the most memory there is":    {`attempt_count = 1, memory = 350000, requested_memory = 350000`, state.ARAReport{AtMaximum: 1}},
		"the most cpu there is":       {`attempt_count = 1, cpu = 60000`, state.ARAReport{AtMaximum: 1}},
		"a GPU has another maximum":   {`attempt_count = 1, gpu = 1, cpu = 60000`, state.ARAReport{}},
		"asked for, and still queued": {`status = 'QUEUED', memory = 350000`, state.ARAReport{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			s.run(t, state.StatusStopped)
			r := s.run(t, state.StatusStopped)
			s.force(t, r.RunID, c.set)
			since := time.Now().Add(-time.Hour)
			got, err := s.VerifyARA(t.Context(), since)
			require.NoError(t, err)
			c.want.Runs += 2
			c.want.Since = since
			assert.Equal(t, c.want, got)
			assert.Equal(t, c.want.CommandsWithoutHash+c.want.WrongHashes+c.want.SharedHashes == 0, got.Clean())
		})
	}
}
