package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

const (
	// logPage is the maximum size of a part of a log, in bytes.
	logPage = 256 << 10
	// lineWait is how long a follower waits for the end of a line.
	lineWait = time.Second
	// readTimeout bounds one reading of the database and the log by a follower, maxReadPause the pause after a failure.
	readTimeout  = 10 * time.Second
	maxReadPause = 5 * time.Second
)

// LogStart is the position before the first byte of a log. It is not empty: old clients poll without pause on an empty
// position. LogEnd is the position behind the end of a followed log.
const (
	LogStart = "0"
	LogEnd   = "end"
)

// LogStore is the database as the LogService uses it.
type LogStore interface {
	GetRun(ctx context.Context, id string) (state.Run, error)
}

// LogConfig is what a LogService needs.
type LogConfig struct {
	Store   LogStore
	Engines EngineRegistry
	Logger  *slog.Logger
	// Clock is time.Now if nil.
	Clock func() time.Time
	// FollowInterval is how often a followed log is read; 500 ms if 0.
	FollowInterval time.Duration
	// EndWait is how long after the end of a run its log may still grow, at most: a run is STOPPED before its containers
	// have used their grace.
	EndWait time.Duration
}

// LogService reads the logs of runs (rest-api.md, Logs).
type LogService struct{ c LogConfig }

// NewLogService returns the service.
func NewLogService(c LogConfig) (*LogService, error) {
	if c.Store == nil || c.Engines == nil || c.Logger == nil {
		return nil, errors.New("services: logs need a store, engines and a logger")
	}
	if c.FollowInterval <= 0 {
		c.FollowInterval = 500 * time.Millisecond
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	return &LogService{c}, nil
}

// LogRequest selects a log, and the position where reading begins.
type LogRequest struct {
	// LastSeen is the position that the previous call returned. Without one that was made for this log, reading begins at
	// Tail lines before the end, or at the beginning if Tail is nil.
	LastSeen string
	Tail     *int64
	// Role and Facility select among the logs of a Spark run.
	Role, Facility string
}

// LogPage is a part of a log.
type LogPage struct {
	Log string
	// LastSeen is the position behind Log, never empty.
	LastSeen string
}

// Page returns the part of a log behind a position, at most 256 KiB, and never half a character. Log is empty and
// LastSeen the same if there is nothing new.
func (s *LogService) Page(ctx context.Context, runID string, r LogRequest) (LogPage, error) {
	log, err := s.open(ctx, runID, r)
	if err != nil {
		return LogPage{}, err
	}
	data, _, err := log.read(ctx, log.offset, logPage)
	if err != nil {
		return LogPage{}, err
	}
	whole := wholeRunes(data)
	if len(whole) == 0 && log.run.Status.Final() {
		whole = data // no more of this character will be written
	}
	log.offset += int64(len(whole))
	return LogPage{Log: string(whole), LastSeen: log.position()}, nil
}

// Stream writes the log to w, as much of it as there is now.
func (s *LogService) Stream(ctx context.Context, runID string, w io.Writer, r LogRequest) error {
	log, err := s.open(ctx, runID, r)
	if err != nil {
		return err
	}
	for {
		data, _, err := log.read(ctx, log.offset, logPage)
		if err != nil || len(data) == 0 {
			return err
		}
		log.offset += int64(len(data))
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
}

func (s *LogService) open(ctx context.Context, runID string, r LogRequest) (*openLog, error) {
	run, err := s.c.Store.GetRun(ctx, runID)
	if err != nil {
		return nil, err
	}
	log := &openLog{s: s, run: run, query: r}
	return log, log.seek(ctx)
}

// Resumes reports whether r continues behind a position in the log of a run. Only this program makes positions, so the
// run was known then.
func (s *LogService) Resumes(runID string, r LogRequest) bool {
	return (&openLog{run: state.Run{RunID: runID}, query: r}).resume()
}

// Follow gives emit every line of a run's log without its line feed, and the position behind it, as they come, until
// the run has stopped and its last byte was given; it then returns the run. A line is given before its end if it ends
// in a carriage return, has waited 1 s, or is longer than 256 KiB. While the database or the cluster is away, Follow
// waits. An error of emit ends it, and state.MissingResource if there is no such run.
func (s *LogService) Follow(ctx context.Context, runID string, r LogRequest, emit func(line []byte, lastSeen string) error) (state.Run, error) {
	log := &openLog{s: s, run: state.Run{RunID: runID}, query: r}
	var emitted error
	log.emit = func(line []byte, lastSeen string) error {
		emitted = emit(line, lastSeen)
		return emitted
	}
	wait := time.NewTimer(0)
	defer wait.Stop()
	pause, failing := s.c.FollowInterval, false
	for {
		select {
		case <-ctx.Done():
			return log.run, ctx.Err()
		case <-wait.C:
		}
		reading, cancel := context.WithTimeout(ctx, readTimeout)
		more, ended, err := log.step(reading)
		cancel()
		switch {
		case ended:
			return log.run, nil
		case err == nil:
			if failing {
				s.c.Logger.InfoContext(ctx, "followed log can be read again", "run_id", runID)
			}
			pause, failing = s.c.FollowInterval, false
		case emitted != nil || ctx.Err() != nil || errors.As(err, new(state.MissingResource)):
			return log.run, err
		default:
			if !failing {
				s.c.Logger.WarnContext(ctx, "cannot read a followed log; trying until its reader leaves", "run_id", runID, "error", err)
			}
			pause, failing = min(2*pause, maxReadPause), true
		}
		if more {
			wait.Reset(0)
		} else {
			wait.Reset(pause)
		}
	}
}

// openLog reads one log.
type openLog struct {
	s     *LogService
	run   state.Run
	query LogRequest
	// offset is the position in bytes behind what was given out.
	offset int64

	// The rest belongs to a follower.
	emit func(line []byte, lastSeen string) error
	// found reports that offset is where the request begins.
	found bool
	// waitingAt is the offset of a line without an end, waitingSince when it was first seen.
	waitingAt    int64
	waitingSince time.Time
	// withinLine reports that the byte before offset is no line feed. A line feed that follows ends a line that was
	// given, and is no empty line.
	withinLine bool
}

// position returns the position behind what was given out. It is opaque to clients, and bound to the log by a checksum,
// so that a value that was not made for this log is recognised.
func (l *openLog) position() string {
	if l.offset == 0 {
		return LogStart
	}
	return fmt.Sprintf("%d-%08x", l.offset, l.checksum(l.offset))
}

func (l *openLog) checksum(offset int64) uint32 {
	return crc32.ChecksumIEEE(fmt.Appendf(nil, "%s|%s|%s|%d", l.run.RunID, l.query.Role, l.query.Facility, offset))
}

// resume goes to the position that the request names, and reports whether it names one that was made for this log.
func (l *openLog) resume() bool {
	number, _, _ := strings.Cut(l.query.LastSeen, "-")
	offset, err := strconv.ParseInt(number, 10, 64)
	if err != nil || offset <= 0 || l.query.LastSeen != fmt.Sprintf("%d-%08x", offset, l.checksum(offset)) {
		return false
	}
	l.offset = offset
	return true
}

// seek goes to where the request begins.
func (l *openLog) seek(ctx context.Context) error {
	if l.resume() {
		return nil
	}
	if l.query.LastSeen == LogStart || l.query.Tail == nil {
		return nil
	}
	// A query far behind the end returns the end. From there, line feeds are counted backwards, without the one that ends
	// the log.
	_, chunk, err := l.read(ctx, math.MaxInt64, 1)
	if err != nil {
		return err
	}
	left := *l.query.Tail
	if left == 0 {
		l.offset = chunk.Next
		return nil
	}
	for to := chunk.Next; to > 0; {
		from := max(0, to-logPage)
		data, _, err := l.read(ctx, from, to-from)
		if err != nil {
			return err
		}
		for i := len(data) - 1; i >= 0; i-- {
			at := from + int64(i)
			if data[i] != '\n' || at == chunk.Next-1 {
				continue
			}
			if left--; left == 0 {
				l.offset = at + 1
				return nil
			}
		}
		to = from
	}
	return nil
}

// read returns at most limit bytes from offset on, fewer only if the log ends, with the last chunk that the engine
// returned. A cluster that has no engine now, or that is no longer known, has no log to show; the run exists, so this is
// no error.
func (l *openLog) read(ctx context.Context, offset, limit int64) ([]byte, engine.LogChunk, error) {
	e, err := l.s.c.Engines.Engine(ctx, l.run.EngineKey())
	if errors.As(err, new(state.MissingResource)) {
		return nil, engine.LogChunk{Complete: true}, nil
	}
	if errors.As(err, new(engine.NotNow)) {
		return nil, engine.LogChunk{}, nil
	}
	if err != nil {
		return nil, engine.LogChunk{}, err
	}
	var data []byte
	for {
		have := int64(len(data))
		q := engine.LogQuery{Offset: offset + have, Limit: limit - have, Role: l.query.Role, Facility: l.query.Facility}
		chunk, err := e.Logs(ctx, l.run, q)
		if err != nil {
			return nil, chunk, err
		}
		data = append(data, chunk.Data...)
		if len(chunk.Data) == 0 || int64(len(data)) >= limit {
			return data, chunk, nil
		}
	}
}

// begin seeks, and reads whether the place found is within a line: a reader that lost its connection may have been given
// the beginning of one.
func (l *openLog) begin(ctx context.Context) error {
	if err := l.seek(ctx); err != nil {
		return err
	}
	if l.offset > 0 {
		before, _, err := l.read(ctx, l.offset-1, 1)
		if err != nil {
			return err
		}
		l.withinLine = len(before) == 1 && before[0] != '\n'
	}
	l.found = true
	return nil
}

// step gives out the next part of the log. more reports that there was one, ended that the run has stopped and all of
// its log was given.
func (l *openLog) step(ctx context.Context) (more, ended bool, err error) {
	// The status is read before the log, so that the log of an ended run is read to its end.
	run, err := l.s.c.Store.GetRun(ctx, l.run.RunID)
	if err != nil {
		return false, false, err
	}
	l.run = run
	if !l.found {
		if err := l.begin(ctx); err != nil {
			return false, false, err
		}
	}
	data, chunk, err := l.read(ctx, l.offset, logPage)
	if err != nil {
		return false, false, err
	}
	// Containers of a run that never started wrote nothing.
	over := run.Status.Final() && (chunk.Complete || run.StartedAt == nil || run.FinishedAt == nil ||
		l.s.c.Clock().Sub(*run.FinishedAt) > l.s.c.EndWait)

	if l.withinLine && len(data) > 0 {
		l.withinLine = false
		if data[0] == '\n' {
			l.offset++
			data = data[1:]
			more = true
		}
	}
	for {
		line, rest, ended := bytes.Cut(data, []byte{'\n'})
		if !ended {
			break
		}
		if err := l.give(line, len(line)+1); err != nil {
			return false, false, err
		}
		data, more = rest, true
	}
	if more {
		return true, false, nil
	}
	if len(data) == 0 {
		return false, over, nil
	}
	if l.waitingAt != l.offset || l.waitingSince.IsZero() {
		l.waitingAt, l.waitingSince = l.offset, l.s.c.Clock()
	}
	carriage := bytes.LastIndexByte(data, '\r') + 1
	switch {
	case over && len(data) < logPage:
	case carriage > 0:
		data = data[:carriage]
	case len(data) == logPage, l.s.c.Clock().Sub(l.waitingSince) >= lineWait:
		data = wholeRunes(data)
	default:
		return false, false, nil
	}
	if len(data) == 0 {
		return false, false, nil
	}
	l.withinLine = true
	return true, false, l.give(data, len(data))
}

// give gives out a line that takes size bytes of the log.
func (l *openLog) give(line []byte, size int) error {
	l.offset += int64(size)
	return l.emit(line, l.position())
}

// wholeRunes returns data without the beginning of a character at its end. Bytes that are no UTF-8 stay.
func wholeRunes(data []byte) []byte {
	for back := 1; back < utf8.UTFMax && back <= len(data); back++ {
		start := len(data) - back
		if !utf8.RuneStart(data[start]) {
			continue
		}
		if !utf8.FullRune(data[start:]) {
			return data[:start]
		}
		break
	}
	return data
}
