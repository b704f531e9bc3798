package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/testkit"
)

// oneRun is a store of one run whose status a test sets.
type oneRun struct {
	mu   sync.Mutex
	run  state.Run
	err  error
	gets int
}

func (s *oneRun) GetRun(_ context.Context, id string) (state.Run, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gets++
	if s.err != nil {
		return state.Run{}, s.err
	}
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

// follow follows the log of a store's run.
func follow(ctx context.Context, logs *LogService, store *oneRun, r LogRequest, emit func(line []byte, lastSeen string) error) error {
	_, err := logs.Follow(ctx, "r", r, emit)
	return err
}

func newLogs(t *testing.T, status state.Status) (*LogService, *oneRun, *fakeEngine) {
	t.Helper()
	store, e := &oneRun{run: state.Run{RunID: "r", ClusterName: testCluster, Status: status}}, &fakeEngine{}
	logs, err := NewLogService(LogConfig{Store: store, Engines: engineMap{testCluster: e}, Logger: slog.New(slog.DiscardHandler), FollowInterval: 1})
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
		"from a value that is no position":             {state.StatusRunning, "hello", "'; drop table", "hello"},
		"from a number without a checksum":             {state.StatusRunning, "hello", "3", "hello"},
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
	require.NoError(t, logs.Stream(t.Context(), "r", &got, LogRequest{}))
	assert.Equal(t, want, got.String())

	var missing state.MissingResource
	require.ErrorAs(t, logs.Stream(t.Context(), "none", &got, LogRequest{}), &missing)
}

func TestLogsOfAClusterWithoutAnEngine(t *testing.T) {
	t.Parallel()
	logs, store, _ := newLogs(t, state.StatusQueued)
	store.run.ClusterName = "elsewhere"
	page, err := logs.Page(t.Context(), "r", LogRequest{})
	require.NoError(t, err)
	assert.Equal(t, LogPage{LastSeen: "0"}, page)
	require.NoError(t, logs.Stream(t.Context(), "r", &bytes.Buffer{}, LogRequest{}))
}

func TestLogFollowGivesEachLineOnceUntilTheRunStops(t *testing.T) {
	t.Parallel()
	logs, store, e := newLogs(t, state.StatusQueued)
	long := strings.Repeat("€", logPage/3*2)
	var lines []string
	positions := map[string]bool{}
	e.write("one\ntw")
	err := follow(t.Context(), logs, store, LogRequest{}, func(line []byte, seen string) error {
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
	logs, store, e := newLogs(t, state.StatusStopped)
	e.write("a\nb\nc\n")
	stop := errors.New("enough")
	var seen string
	err := follow(t.Context(), logs, store, LogRequest{}, func(_ []byte, at string) error {
		seen = at
		return stop
	})
	require.ErrorIs(t, err, stop)
	var lines []string
	require.NoError(t, follow(t.Context(), logs, store, LogRequest{LastSeen: seen}, func(line []byte, _ string) error {
		lines = append(lines, string(line))
		return nil
	}))
	assert.Equal(t, []string{"b", "c"}, lines)
}

// noCluster is an EngineRegistry without any cluster.
type noCluster struct{}

func (noCluster) Engine(_ context.Context, key state.EngineKey) (engine.Engine, error) {
	return nil, state.Missingf("there is no cluster named %q", key.Cluster)
}

func TestLogOfADeletedClusterIsEmpty(t *testing.T) {
	t.Parallel()
	store := &oneRun{run: state.Run{RunID: "r", ClusterName: "gone", Status: state.StatusQueued}}
	logs, err := NewLogService(LogConfig{Store: store, Engines: noCluster{}, Logger: slog.New(slog.DiscardHandler), FollowInterval: 1})
	require.NoError(t, err)
	page, err := logs.Page(t.Context(), "r", LogRequest{})
	require.NoError(t, err)
	assert.Equal(t, LogPage{LastSeen: "0"}, page)
	var raw bytes.Buffer
	require.NoError(t, logs.Stream(t.Context(), "r", &raw, LogRequest{}))
	assert.Empty(t, raw.Bytes())
	store.set(state.StatusStopped)
	require.NoError(t, follow(t.Context(), logs, store, LogRequest{}, nil))
}

func TestLogFollowEndsWithItsReader(t *testing.T) {
	t.Parallel()
	logs, store, _ := newLogs(t, state.StatusRunning)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, follow(ctx, logs, store, LogRequest{}, nil), context.Canceled)
}

func TestTail(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", logPage) + "\n"
	for name, c := range map[string]struct {
		log, seen string
		lines     int64
		want      string
	}{
		"the last lines":                     {"a\nb\nc\n", "", 2, "b\nc\n"},
		"a last line without an end is one":  {"a\nb\nc", "", 2, "b\nc"},
		"more lines than there are":          {"a\nb\n", "", 9, "a\nb\n"},
		"as many lines as there are":         {"a\nb\n", "", 2, "a\nb\n"},
		"empty lines count":                  {"a\n\n\n", "", 2, "\n\n"},
		"nothing":                            {"a\nb\n", "", 0, ""},
		"of an empty log":                    {"", "", 3, ""},
		"beyond a part of the log":           {"a\nb\n" + long + long + "c\n", "", 4, "b\n" + long + long + "c\n"},
		"a position goes first":              {"a\nb\n", "0", 1, "a\nb\n"},
		"a value that is no position counts": {"a\nb\n", "x", 1, "b\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			logs, store, e := newLogs(t, state.StatusStopped)
			e.write(c.log)
			r := LogRequest{LastSeen: c.seen, Tail: &c.lines}
			var raw bytes.Buffer
			require.NoError(t, logs.Stream(t.Context(), "r", &raw, r))
			assert.Equal(t, c.want, raw.String())
			var lines strings.Builder
			require.NoError(t, follow(t.Context(), logs, store, r, func(line []byte, _ string) error {
				lines.Write(line)
				return nil
			}))
			assert.Equal(t, strings.ReplaceAll(c.want, "\n", ""), lines.String())
			var pages strings.Builder
			for r := r; ; {
				page, err := logs.Page(t.Context(), "r", r)
				require.NoError(t, err)
				pages.WriteString(page.Log)
				if page.Log == "" {
					break
				}
				r.LastSeen = page.LastSeen
			}
			assert.Equal(t, c.want, pages.String())
		})
	}
}

// followed is a log that a goroutine follows.
type followed struct {
	store *oneRun
	e     *fakeEngine
	clock *testkit.Clock
	log   *testkit.Log
	lines chan string
	ended chan state.Run
}

func followRun(t *testing.T, run state.Run) *followed {
	t.Helper()
	return followFrom(t, run, "", "", nil)
}

// followFrom follows a log that holds written, from a position on, with a database that is away if err is not nil.
func followFrom(t *testing.T, run state.Run, written, lastSeen string, err error) *followed {
	t.Helper()
	run.RunID, run.ClusterName = "r", testCluster
	f := &followed{
		store: &oneRun{run: run, err: err}, e: &fakeEngine{running: true, log: []byte(written)}, clock: testkit.NewClock(time.Now()), log: &testkit.Log{},
		lines: make(chan string, 100), ended: make(chan state.Run, 1),
	}
	logs, makeErr := NewLogService(LogConfig{
		Store: f.store, Engines: engineMap{testCluster: f.e}, Logger: slog.New(slog.NewJSONHandler(f.log, nil)),
		Clock: f.clock.Now, FollowInterval: time.Millisecond, EndWait: time.Minute,
	})
	require.NoError(t, makeErr)
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() {
		ended, err := logs.Follow(ctx, "r", LogRequest{LastSeen: lastSeen}, func(line []byte, _ string) error {
			f.lines <- string(line)
			return nil
		})
		if err == nil {
			f.ended <- ended
		}
	})
	t.Cleanup(func() {
		cancel()
		following.Wait()
	})
	return f
}

// rounds waits until the follower has read the run again.
func (f *followed) rounds(t *testing.T) {
	t.Helper()
	f.store.mu.Lock()
	seen := f.store.gets
	f.store.mu.Unlock()
	require.Eventually(t, func() bool {
		f.store.mu.Lock()
		defer f.store.mu.Unlock()
		return f.store.gets >= seen+3
	}, 30*time.Second, time.Millisecond)
}

func TestLogFollowGivesLinesWithoutAnEnd(t *testing.T) {
	t.Parallel()
	f := followRun(t, state.Run{Status: state.StatusRunning})
	f.e.write("10%\r")
	assert.Equal(t, "10%\r", <-f.lines, "a progress bar is not held back")
	f.e.write("20%\r3")
	assert.Equal(t, "20%\r", <-f.lines)
	f.e.write("0%\r")
	assert.Equal(t, "30%\r", <-f.lines)
	f.e.write("\ndone\n")
	assert.Equal(t, "done", <-f.lines, "the line feed belongs to the carriage return")
	f.e.write("name? ")
	f.rounds(t)
	assert.Empty(t, f.lines, "its end may still come")
	f.clock.Advance(lineWait)
	assert.Equal(t, "name? ", <-f.lines)
	f.e.write("ada\n")
	assert.Equal(t, "ada", <-f.lines)
	f.e.write("sure?")
	f.rounds(t)
	f.clock.Advance(lineWait)
	assert.Equal(t, "sure?", <-f.lines)
	f.e.write("\n\nyes\n")
	assert.Equal(t, "", <-f.lines, "the first line feed ends the line that was given")
	assert.Equal(t, "yes", <-f.lines)
}

func TestLogFollowResumesWithinALineEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		given, rest string
		want        []string
	}{
		"a carriage return and its line feed": {"100%\r", "\ndone\n", []string{"done"}},
		"a line given before its end":         {"name? ", "\ndone\n", []string{"done"}},
		"a line that goes on":                 {"name? ", "ada\n", []string{"ada"}},
		"an empty line after a whole one":     {"one\n", "\ntwo\n", []string{"", "two"}},
		"an empty line after a line feed":     {"100%\r", "\n\ndone\n", []string{"", "done"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := state.Run{RunID: "r"}
			position := (&openLog{run: run, offset: int64(len(c.given))}).position()
			f := followFrom(t, state.Run{Status: state.StatusRunning}, c.given+c.rest, position, nil)
			for _, want := range c.want {
				assert.Equal(t, want, <-f.lines)
			}
		})
	}
}

func TestLogFollowResumesWithoutADatabase(t *testing.T) {
	t.Parallel()
	position := (&openLog{run: state.Run{RunID: "r"}, offset: 4}).position()
	f := followFrom(t, state.Run{Status: state.StatusRunning}, "one\ntwo\n", position, errors.New("connection refused"))
	f.rounds(t)
	assert.Empty(t, f.lines)
	f.store.mu.Lock()
	f.store.err = nil
	f.store.mu.Unlock()
	assert.Equal(t, "two", <-f.lines)
}

func TestLogServiceResumes(t *testing.T) {
	t.Parallel()
	logs, _, _ := newLogs(t, state.StatusRunning)
	position := (&openLog{run: state.Run{RunID: "r"}, offset: 4}).position()
	assert.True(t, logs.Resumes("r", LogRequest{LastSeen: position}))
	assert.False(t, logs.Resumes("s", LogRequest{LastSeen: position}), "another run")
	assert.False(t, logs.Resumes("r", LogRequest{LastSeen: position, Role: "driver"}), "another log of the run")
	for _, wrong := range []string{"", LogStart, LogEnd, "4", "4-00000000"} {
		assert.False(t, logs.Resumes("r", LogRequest{LastSeen: wrong}), wrong)
	}
}

func TestLogFollowGivesWhatIsWrittenAfterAStop(t *testing.T) {
	t.Parallel()
	f := followRun(t, state.Run{Status: state.StatusRunning, StartedAt: new(time.Now())})
	stop := func() {
		f.store.mu.Lock()
		defer f.store.mu.Unlock()
		f.store.run.Status, f.store.run.FinishedAt, f.store.run.ExitCode = state.StatusStopped, new(f.clock.Now()), new(int64(1))
	}
	f.e.write("one\n")
	assert.Equal(t, "one", <-f.lines)
	stop()
	f.rounds(t)
	assert.Empty(t, f.ended, "the container still has its grace")
	f.e.write("saved\nbye")
	assert.Equal(t, "saved", <-f.lines)
	f.e.mu.Lock()
	f.e.running = false
	f.e.mu.Unlock()
	assert.Equal(t, "bye", <-f.lines)
	run := <-f.ended
	assert.Equal(t, state.StatusStopped, run.Status)
	assert.EqualValues(t, 1, *run.ExitCode)

	// A log that never becomes complete ends after EndWait.
	f = followRun(t, state.Run{Status: state.StatusStopped, StartedAt: new(time.Now()), FinishedAt: new(time.Now())})
	f.rounds(t)
	assert.Empty(t, f.ended)
	f.clock.Advance(2 * time.Minute)
	<-f.ended
}

func TestLogFollowWaitsForTheDatabaseAndTheCluster(t *testing.T) {
	t.Parallel()
	f := followRun(t, state.Run{Status: state.StatusRunning})
	f.e.write("one\n")
	assert.Equal(t, "one", <-f.lines)
	for _, away := range []func(error){
		func(err error) {
			f.store.mu.Lock()
			defer f.store.mu.Unlock()
			f.store.err = err
		},
		func(err error) {
			f.e.mu.Lock()
			defer f.e.mu.Unlock()
			f.e.logsErr = err
		},
	} {
		away(errors.New("connection refused"))
		f.rounds(t)
		f.e.write("two\n")
		away(nil)
		assert.Equal(t, "two", <-f.lines)
	}
	assert.Equal(t, 2, strings.Count(f.log.String(), "cannot read a followed log"), "the first failure is logged, not each")
}
