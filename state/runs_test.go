package state_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

func TestACreatedRunIsStoredWhole(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.definition(t, "def")
	var spark state.SparkExtension
	require.NoError(t, json.Unmarshal([]byte(`{"app_uri": "u", "of_tomorrow": 1}`), &spark))
	r := makeRun(func(r *state.Run) {
		r.Memory, r.CPU, r.GPU, r.EphemeralStorage = new(int64(1)), new(int64(2)), new(int64(3)), new(int64(4))
		r.RequestedMemory, r.RequestedCPU = new(int64(1)), new(int64(2))
		r.SparkExtension, r.Labels, r.RequestCustom = &spark, state.Labels{"team": "x"}, state.Object{"k": "v"}
		r.Arch, r.ServiceAccount, r.RequiresDocker = new("arm64"), new("robot"), true
	})
	created, did, err := s.CreateRun(t.Context(), r)
	require.NoError(t, err)
	require.True(t, did)
	assert.Equal(t, state.StatusQueued, created.Status)
	assert.WithinDuration(t, time.Now(), *created.QueuedAt, time.Minute)

	stored := s.get(t, r.RunID)
	assert.True(t, created.QueuedAt.Equal(*stored.QueuedAt))
	created.QueuedAt = stored.QueuedAt
	assert.Equal(t, created, stored, "CreateRun returns the run as stored")
	r.Status, r.QueuedAt = state.StatusQueued, stored.QueuedAt
	assert.Equal(t, r, stored)
}

func TestAbsentFieldsOfARunAreStoredAsNull(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.definition(t, "def")
	r := state.Run{RunID: "eks-1", DefinitionID: "def", Command: new(""), Engine: state.EKSEngine}
	_, _, err := s.CreateRun(t.Context(), r)
	require.NoError(t, err)
	assert.True(t, ask[bool](t, s, `SELECT (command, command_hash, memory, cpu, env, labels, spark_extension, tier, "user",
		attempt_count, claimed_by, exit_code, started_at, idempotence_key) IS NULL FROM task`))
	assert.Equal(t, "task_definition", ask[string](t, s, `SELECT executable_type FROM task`))
}

func TestARunNeedsItsDefinition(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for name, key := range map[string]*string{"without a key": nil, "with a key": new("key")} {
		_, created, err := s.CreateRun(t.Context(), makeRun(func(r *state.Run) { r.IdempotenceKey = key }))
		assert.ErrorAs(t, err, new(state.MissingResource), name)
		assert.False(t, created)
	}
	assert.Zero(t, ask[int](t, s, `SELECT count(*) FROM task`))
	_, created, err := s.CreateRun(t.Context(), makeRun(func(r *state.Run) {
		r.ExecutableType, r.DefinitionID = state.ExecutableTypeTemplate, "tpl-1"
	}))
	require.NoError(t, err)
	assert.True(t, created, "a template's run has no definition")
}

func TestARunIsMadeFromAVersionOfItsDefinition(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.definition(t, "def")
	version := func() string {
		d, err := s.GetDefinition(t.Context(), "def")
		require.NoError(t, err)
		return d.Version
	}
	create := func(version string) error {
		_, _, err := s.CreateRun(t.Context(), makeRun(func(r *state.Run) { r.DefinitionVersion = version }))
		return err
	}
	first := version()
	require.NoError(t, create(first))
	require.NoError(t, create(first), "the lock of a run's creation is no change")
	s.exec(t, `UPDATE task_def SET memory = 1 WHERE definition_id = 'def'`)
	require.ErrorIs(t, create(first), state.ErrDefinitionChanged)
	require.NoError(t, create(version()))
	require.NoError(t, create(""), "any version")
	s.exec(t, `DELETE FROM task_def`)
	require.ErrorIs(t, create(first), state.ErrDefinitionChanged)
	assert.Equal(t, 4, ask[int](t, s, `SELECT count(*) FROM task`))
}

func TestCreateRunWaitsForADeletionOfItsDefinition(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.definition(t, "def")
	tx, err := s.db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(t.Context(), `SELECT FROM task_def WHERE definition_id = 'def' FOR UPDATE`)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		_, _, err := s.CreateRun(t.Context(), makeRun())
		done <- err
	}()
	require.Eventually(t, func() bool {
		return ask[int](t, s, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()`) == 1
	}, 10*time.Second, 10*time.Millisecond)
	_, err = tx.ExecContext(t.Context(), `DELETE FROM task_def`)
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	assert.ErrorAs(t, <-done, new(state.MissingResource))
	assert.Zero(t, ask[int](t, s, `SELECT count(*) FROM task`))
}

func TestGetRunOfAnUnknownIDIsMissing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	_, err := s.GetRun(t.Context(), "no-such-run")
	assert.ErrorAs(t, err, new(state.MissingResource))
}

func TestAnIdempotenceKeyStandsForTheNewestRunThatHasNotFailed(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.definition(t, "def")
	cases := map[string]struct {
		set    string // of the earlier run
		stands bool
	}{
		"queued":                          {`status = 'QUEUED'`, true},
		"running":                         {`status = 'RUNNING'`, true},
		"waiting for a retry":             {`status = 'NEEDS_RETRY'`, true},
		"succeeded":                       {`status = 'STOPPED', exit_code = 0`, true},
		"failed":                          {`status = 'STOPPED', exit_code = 1`, false},
		"lost":                            {`status = 'STOPPED', exit_code = NULL`, false},
		"queued almost 7 days ago":        {`queued_at = now() - INTERVAL '7 days' + INTERVAL '1 minute'`, true},
		"queued more than 7 days ago":     {`queued_at = now() - INTERVAL '7 days' - INTERVAL '1 minute'`, false},
		"of another definition, whatever": {`definition_id = 'other'`, true},
	}
	for name, c := range cases {
		withKey := func(r *state.Run) { r.IdempotenceKey = new("key of " + name) }
		earlier := s.run(t, state.StatusQueued, withKey)
		s.force(t, earlier.RunID, c.set)
		answer, created, err := s.CreateRun(t.Context(), makeRun(withKey))
		require.NoError(t, err, name)
		assert.Equal(t, !c.stands, created, name)
		assert.Equal(t, c.stands, answer.RunID == earlier.RunID, name)
	}

	withKey := func(r *state.Run) { r.IdempotenceKey = new("twice") }
	s.run(t, state.StatusStopped, withKey, func(r *state.Run) { r.QueuedAt = new(time.Now().Add(-2 * time.Hour)) })
	old := s.run(t, state.StatusQueued, func(r *state.Run) { r.QueuedAt = new(time.Now().Add(-time.Hour)) })
	s.force(t, old.RunID, `idempotence_key = 'twice', status = 'RUNNING'`)
	newest := s.run(t, state.StatusQueued)
	s.force(t, newest.RunID, `idempotence_key = 'twice', status = 'RUNNING'`)
	answer, _, err := s.CreateRun(t.Context(), makeRun(withKey))
	require.NoError(t, err)
	assert.Equal(t, newest.RunID, answer.RunID)

	for range 2 {
		_, created, err := s.CreateRun(t.Context(), makeRun(func(r *state.Run) { r.IdempotenceKey = new("") }))
		require.NoError(t, err)
		assert.True(t, created, "an empty key is none")
	}
}

func TestTwoRequestsWithOneKeyAtTheSameMomentCreateOneRun(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.definition(t, "def")
	for round := range 20 {
		var all sync.WaitGroup
		var mu sync.Mutex
		answered, created := map[string]bool{}, 0
		for range 4 {
			all.Go(func() {
				r, did, err := s.CreateRun(t.Context(), makeRun(func(r *state.Run) { r.IdempotenceKey = new(fmt.Sprint(round)) }))
				if !assert.NoError(t, err) {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				answered[r.RunID] = true
				if did {
					created++
				}
			})
		}
		all.Wait()
		assert.Equal(t, 1, created)
		assert.Len(t, answered, 1)
	}
	assert.Equal(t, 20, ask[int](t, s, `SELECT count(*) FROM task`))
}

func TestAWrongHashIsLoggedAndStoredAsItIs(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		command, hash *string
		expected      string // in the warning; "none" for no warning
	}{
		"right":                  {new("echo"), md5Of("echo"), "none"},
		"no command, no hash":    {nil, nil, "none"},
		"empty command, no hash": {new(""), nil, "none"},
		"of another command":     {new("echo"), md5Of("true"), *md5Of("echo")},
		"missing":                {new("echo"), nil, *md5Of("echo")},
		"without a command":      {nil, md5Of("echo"), ""},
	}
	var log bytes.Buffer
	s := newStore(t, func(c *state.ManagerConfig) { c.Logger = slog.New(slog.NewJSONHandler(&log, nil)) })
	s.definition(t, "def")
	for name, c := range cases {
		log.Reset()
		r := makeRun(func(r *state.Run) { r.Command, r.CommandHash = c.command, c.hash })
		_, created, err := s.CreateRun(t.Context(), r)
		require.NoError(t, err, name)
		require.True(t, created, name)
		assert.Equal(t, c.hash, s.get(t, r.RunID).CommandHash, name)
		if c.expected == "none" {
			assert.Empty(t, log.String(), name)
			continue
		}
		var line struct {
			Level, Msg   string
			RunID        string `json:"run_id"`
			ExpectedHash string `json:"expected_hash"`
			ActualHash   string `json:"actual_hash"`
		}
		require.NoError(t, json.Unmarshal(log.Bytes(), &line), name)
		assert.Equal(t, "WARN command_hash mismatch "+r.RunID, line.Level+" "+line.Msg+" "+line.RunID, name)
		assert.Equal(t, c.expected, line.ExpectedHash, name)
	}
}

func TestOurMD5EqualsThatOfPostgres(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s := newStore(t, func(c *state.ManagerConfig) { c.Logger = slog.New(slog.NewJSONHandler(&log, nil)) })
	s.definition(t, "def")
	for name, command := range map[string]string{
		"plain": "echo hello", "unicode": "echo 'žluťoučký kůň 🐎 日本語'", "combining": "e\u0301 is not é",
		"many lines": "set -e\r\n\techo one\n\n echo \"two\" \\\n three\n", "quotes": `it's "quoted" \ $HOME %s`,
	} {
		r := makeRun(func(r *state.Run) { r.Command, r.CommandHash = &command, md5Of(command) })
		_, _, err := s.CreateRun(t.Context(), r)
		require.NoError(t, err)
		assert.Equal(t, *r.CommandHash, ask[string](t, s, `SELECT md5(command) FROM task WHERE run_id = $1`, r.RunID), name)
		assert.Equal(t, new(command), s.get(t, r.RunID).Command, name)
	}
	assert.Empty(t, log.String())
}

func TestAManagerWorksAgainWhenPostgresIsBack(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	url := server.CreateDatabase("back")
	require.NoError(t, statetest.Migrate(t.Context(), url))
	s := store{Manager: statetest.Open(t, url), url: url, db: openDB(t, url)}
	s.definition(t, "def")
	acknowledged := makeRun()
	_, _, err := s.CreateRun(t.Context(), acknowledged)
	require.NoError(t, err)

	server.Kill()
	_, _, err = s.CreateRun(t.Context(), makeRun())
	require.ErrorAs(t, err, new(state.Unavailable))
	_, err = s.EstimateRunResources(t.Context(), "def", "hash")
	require.ErrorAs(t, err, new(state.Unavailable))

	server.Start()
	require.Eventually(t, func() bool {
		_, _, err := s.CreateRun(t.Context(), makeRun())
		return err == nil
	}, 30*time.Second, 50*time.Millisecond)
	assert.Equal(t, state.StatusQueued, s.get(t, acknowledged.RunID).Status)
	_, err = s.EstimateRunResources(t.Context(), "def", "hash")
	assert.ErrorAs(t, err, new(state.MissingResource))
}
