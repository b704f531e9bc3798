package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

// oneRun is a store of one run whose status a test sets.
type oneRun struct {
	mu  sync.Mutex
	run state.Run
}

func (s *oneRun) GetRun(_ context.Context, id string) (state.Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id != s.run.RunID {
		return state.Run{}, state.Missingf("there is no run %q", id)
	}
	return s.run, nil
}

func (s *oneRun) set(status state.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run.Status = status
}

func newLogs(t *testing.T, status state.Status) (*LogService, *oneRun, *fakeEngine) {
	t.Helper()
	store, e := &oneRun{run: state.Run{RunID: "r", ClusterName: testCluster, Status: status}}, &fakeEngine{}
	logs, err := NewLogService(LogConfig{Store: store, Engines: engineMap{testCluster: e}, FollowInterval: 1})
	require.NoError(t, err)
	return logs, store, e
}

func TestLogPagesYieldEveryByteOnce(t *testing.T) {
	t.Parallel()
	logs, store, e := newLogs(t, state.StatusRunning)
	var want strings.Builder
	for i := range 60_000 {
		fmt.Fprintf(&want, "line %d ž🐎 €\n", i)
	}
	all := []byte(want.String())
	var got strings.Builder
	seen := ""
	for pos := 0; pos < len(all); {
		// The runtime writes pieces that end anywhere, also within a character.
		n := min(1+rand.IntN(100_000), len(all)-pos)
		e.write(string(all[pos : pos+n]))
		pos += n
		for {
			page, err := logs.Page(t.Context(), "r", LogRequest{LastSeen: seen})
			require.NoError(t, err)
			require.LessOrEqual(t, len(page.Log), logPage)
			require.True(t, utf8.ValidString(page.Log), "no half characters")
			require.NotEmpty(t, page.LastSeen)
			got.WriteString(page.Log)
			if page.Log == "" {
				require.Equal(t, page.LastSeen, seen)
				break
			}
			seen = page.LastSeen
		}
	}
	store.set(state.StatusStopped)
	page, err := logs.Page(t.Context(), "r", LogRequest{LastSeen: seen})
	require.NoError(t, err)
	got.WriteString(page.Log)
	assert.Equal(t, want.String(), got.String())
}

func TestLogPage(t *testing.T) {
	t.Parallel()
	half := "end " + "🐎"[:2]
	cases := map[string]struct {
		status    state.Status
		log, seen string
		want      string
	}{
		"before the start":                             {state.StatusQueued, "", "", ""},
		"from the beginning":                           {state.StatusRunning, "hello", "", "hello"},
		"from the position before the first byte":      {state.StatusRunning, "hello", "0", "hello"},
		"from a value that nobody made":                {state.StatusRunning, "hello", "'; drop table", "hello"},
		"from a number that nobody made":               {state.StatusRunning, "hello", "3", "hello"},
		"from a position with a wrong checksum":        {state.StatusRunning, "hello", "3-00000000", "hello"},
		"from a negative number":                       {state.StatusRunning, "hello", "-3", "hello"},
		"half a character waits for its rest":          {state.StatusRunning, half, "", "end "},
		"half a character of a stopped run comes last": {state.StatusStopped, "🐎"[:2], "", "🐎"[:2]},
		"bytes that are no text come as they are":      {state.StatusRunning, "\xff\xfeab", "", "\xff\xfeab"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			logs, _, e := newLogs(t, c.status)
			e.write(c.log)
			page, err := logs.Page(t.Context(), "r", LogRequest{LastSeen: c.seen})
			require.NoError(t, err)
			assert.Equal(t, c.want, page.Log)
			if c.want == "" {
				assert.Equal(t, "0", page.LastSeen, "never empty: old clients poll without pause on that")
			}
			next, err := logs.Page(t.Context(), "r", LogRequest{LastSeen: page.LastSeen})
			require.NoError(t, err)
			assert.Empty(t, next.Log)
			assert.Equal(t, page.LastSeen, next.LastSeen)
		})
	}
}

func TestLogPositionsBelongToOneLog(t *testing.T) {
	t.Parallel()
	logs, _, e := newLogs(t, state.StatusRunning)
	e.write("hello")
	page, err := logs.Page(t.Context(), "r", LogRequest{Role: "driver", Facility: "stderr"})
	require.NoError(t, err)
	other, err := logs.Page(t.Context(), "r", LogRequest{Role: "driver", Facility: "stdout", LastSeen: page.LastSeen})
	require.NoError(t, err)
	assert.Equal(t, "hello", other.Log, "a position of another log is the beginning")
	assert.Contains(t, e.queries, engine.LogQuery{Offset: 0, Limit: logPage, Role: "driver", Facility: "stderr"})
}

func TestLogStream(t *testing.T) {
	t.Parallel()
	logs, _, e := newLogs(t, state.StatusStopped)
	e.chunk = 1000
	want := strings.Repeat("\xffsome text\n", 100_000)
	e.write(want)
	var got bytes.Buffer
	require.NoError(t, logs.Stream(t.Context(), "r", &got, "", ""))
	assert.Equal(t, want, got.String())

	var missing state.MissingResource
	require.ErrorAs(t, logs.Stream(t.Context(), "none", &got, "", ""), &missing)
}

func TestLogsOfAClusterWithoutAnEngine(t *testing.T) {
	t.Parallel()
	logs, store, _ := newLogs(t, state.StatusQueued)
	store.run.ClusterName = "elsewhere"
	page, err := logs.Page(t.Context(), "r", LogRequest{})
	require.NoError(t, err)
	assert.Equal(t, LogPage{LastSeen: "0"}, page)
	require.NoError(t, logs.Stream(t.Context(), "r", &bytes.Buffer{}, "", ""))
}

func TestLogFollowGivesEachLineOnceUntilTheRunStops(t *testing.T) {
	t.Parallel()
	logs, store, e := newLogs(t, state.StatusQueued)
	long := strings.Repeat("€", logPage/3*2)
	var lines []string
	positions := map[string]bool{}
	e.write("one\ntw")
	err := logs.Follow(t.Context(), "r", LogRequest{}, func(line []byte, seen string) error {
		lines = append(lines, string(line))
		assert.True(t, utf8.Valid(line))
		assert.False(t, positions[seen])
		positions[seen] = true
		switch len(lines) {
		case 1:
			e.write("o\nthree\n")
		case 3:
			e.write(long)
		case 4:
			e.write("\n\nlast without an end")
			store.set(state.StatusStopped)
		}
		return nil
	})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(lines), 6)
	assert.Equal(t, []string{"one", "two", "three"}, lines[:3])
	assert.Equal(t, long, strings.Join(lines[3:len(lines)-2], ""), "a line longer than a page comes in parts")
	assert.Equal(t, []string{"", "last without an end"}, lines[len(lines)-2:])
}

func TestLogFollowGoesOnFromAPosition(t *testing.T) {
	t.Parallel()
	logs, _, e := newLogs(t, state.StatusStopped)
	e.write("a\nb\nc\n")
	stop := errors.New("enough")
	var seen string
	err := logs.Follow(t.Context(), "r", LogRequest{}, func(_ []byte, at string) error {
		seen = at
		return stop
	})
	require.ErrorIs(t, err, stop)
	var lines []string
	require.NoError(t, logs.Follow(t.Context(), "r", LogRequest{LastSeen: seen}, func(line []byte, _ string) error {
		lines = append(lines, string(line))
		return nil
	}))
	assert.Equal(t, []string{"b", "c"}, lines)
}

// noCluster knows no cluster at all.
type noCluster struct{}

func (noCluster) Engine(_ context.Context, key state.EngineKey) (engine.Engine, error) {
	return nil, state.Missingf("there is no cluster named %q", key.Cluster)
}

func TestTheLogOfARunWhoseClusterIsGoneIsEmpty(t *testing.T) {
	t.Parallel()
	store := &oneRun{run: state.Run{RunID: "r", ClusterName: "gone", Status: state.StatusQueued}}
	logs, err := NewLogService(LogConfig{Store: store, Engines: noCluster{}, FollowInterval: 1})
	require.NoError(t, err)
	page, err := logs.Page(t.Context(), "r", LogRequest{})
	require.NoError(t, err)
	assert.Equal(t, LogPage{LastSeen: "0"}, page)
	var raw bytes.Buffer
	require.NoError(t, logs.Stream(t.Context(), "r", &raw, "", ""))
	assert.Empty(t, raw.Bytes())
	store.set(state.StatusStopped)
	require.NoError(t, logs.Follow(t.Context(), "r", LogRequest{}, nil))
}

func TestLogFollowEndsWithItsReader(t *testing.T) {
	t.Parallel()
	logs, _, _ := newLogs(t, state.StatusRunning)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, logs.Follow(ctx, "r", LogRequest{}, nil), context.Canceled)
}
