package services

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"
	"unicode/utf8"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

const (
	// logPage is how many bytes of a log one answer holds at most.
	logPage = 256 << 10
	// defaultFollowInterval is how often a followed log is read for news.
	defaultFollowInterval = 500 * time.Millisecond
)

// LogStore is what logs need of the database.
type LogStore interface {
	GetRun(ctx context.Context, id string) (state.Run, error)
}

// LogConfig is what a LogService needs.
type LogConfig struct {
	Store   LogStore
	Engines EngineRegistry
	// FollowInterval is how often a followed log is read for news; 0 means
	// every 500 ms.
	FollowInterval time.Duration
}

// LogService reads the logs of runs (rest-api.md, Logs).
type LogService struct{ c LogConfig }

// NewLogService makes the service.
func NewLogService(c LogConfig) (*LogService, error) {
	if c.Store == nil || c.Engines == nil {
		return nil, errors.New("services: logs need a store and engines")
	}
	if c.FollowInterval <= 0 {
		c.FollowInterval = defaultFollowInterval
	}
	return &LogService{c}, nil
}

// LogRequest is which log is wanted, and from where.
type LogRequest struct {
	// LastSeen is the position that the previous answer gave; anything else
	// means the beginning.
	LastSeen string
	// Role and Facility choose among the logs of a Spark run.
	Role, Facility string
}

// LogPage is a part of a log.
type LogPage struct {
	Log string
	// LastSeen is the position behind Log, never empty.
	LastSeen string
}

// Page is the part of a log behind a position, at most 256 KiB, and never half
// a character. Log is empty and LastSeen the same where there is nothing new.
func (s *LogService) Page(ctx context.Context, runID string, r LogRequest) (LogPage, error) {
	log, err := s.open(ctx, runID, r)
	if err != nil {
		return LogPage{}, err
	}
	data, err := log.next(ctx, logPage)
	return LogPage{Log: string(data), LastSeen: log.position()}, err
}

// Stream writes the whole log as far as there is one to w, of any size.
func (s *LogService) Stream(ctx context.Context, runID string, w io.Writer, role, facility string) error {
	log, err := s.open(ctx, runID, LogRequest{Role: role, Facility: facility})
	if err != nil {
		return err
	}
	for {
		chunk, err := log.read(ctx, logPage)
		if err != nil || len(chunk) == 0 {
			return err
		}
		if _, err := w.Write(chunk); err != nil {
			return err
		}
	}
}

// Follow gives emit every line behind r.LastSeen without its line feed, and the
// position behind it, as they come, until the run has stopped and everything
// was given. A line longer than 256 KiB comes in parts. An error of emit ends
// it.
func (s *LogService) Follow(ctx context.Context, runID string, r LogRequest, emit func(line []byte, lastSeen string) error) error {
	log, err := s.open(ctx, runID, r)
	if err != nil {
		return err
	}
	wait := time.NewTimer(s.c.FollowInterval)
	defer wait.Stop()
	for {
		// The status is read before the log: what the log lacks then, a run
		// that has stopped will not write any more.
		if err := log.reload(ctx); err != nil {
			return err
		}
		more, err := log.emitLines(ctx, emit)
		if err != nil {
			return err
		}
		if more {
			continue
		}
		if log.run.Status.Final() {
			return nil
		}
		wait.Reset(s.c.FollowInterval)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wait.C:
		}
	}
}

// openLog is a reading of one log.
type openLog struct {
	s     *LogService
	run   state.Run
	query LogRequest
	// offset is the position in bytes behind what was given out.
	offset int64
}

func (s *LogService) open(ctx context.Context, runID string, r LogRequest) (*openLog, error) {
	run, err := s.c.Store.GetRun(ctx, runID)
	if err != nil {
		return nil, err
	}
	log := &openLog{s: s, run: run, query: r}
	log.offset = log.parsePosition(r.LastSeen)
	return log, nil
}

func (l *openLog) reload(ctx context.Context) (err error) {
	l.run, err = l.s.c.Store.GetRun(ctx, l.run.RunID)
	return err
}

// peek reads at most limit bytes behind the position and leaves it; fewer only
// where the log ends. A cluster that has no engine now, or that is known no more,
// has no log to show now; the run is there, so that this is no error.
func (l *openLog) peek(ctx context.Context, limit int64) ([]byte, error) {
	e, err := l.s.c.Engines.Engine(ctx, l.run.EngineKey())
	if errors.As(err, new(engine.NotNow)) || errors.As(err, new(state.MissingResource)) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var data []byte
	for {
		have := int64(len(data))
		q := engine.LogQuery{Offset: l.offset + have, Limit: limit - have, Role: l.query.Role, Facility: l.query.Facility}
		chunk, err := e.Logs(ctx, l.run, q)
		if err != nil {
			return nil, err
		}
		data = append(data, chunk.Data...)
		if len(chunk.Data) == 0 || int64(len(data)) >= limit {
			return data, nil
		}
	}
}

// read takes at most limit bytes, as they are.
func (l *openLog) read(ctx context.Context, limit int64) ([]byte, error) {
	data, err := l.peek(ctx, limit)
	l.offset += int64(len(data))
	return data, err
}

// next takes at most limit bytes that end with a whole character.
func (l *openLog) next(ctx context.Context, limit int64) ([]byte, error) {
	data, err := l.peek(ctx, limit)
	if err != nil {
		return nil, err
	}
	whole := wholeRunes(data)
	if len(whole) == 0 && l.run.Status.Final() {
		// The rest of this character will never come.
		whole = data
	}
	l.offset += int64(len(whole))
	return whole, nil
}

// emitLines gives out the lines of the next part of the log, and says whether
// it gave any. A line that has no end yet waits, unless it is longer than a
// part, or the run has stopped and nothing else is left.
func (l *openLog) emitLines(ctx context.Context, emit func(line []byte, lastSeen string) error) (bool, error) {
	data, err := l.peek(ctx, logPage)
	if err != nil {
		return false, err
	}
	given := false
	give := func(line []byte, size int) error {
		given = true
		l.offset += int64(size)
		return emit(line, l.position())
	}
	tail := data
	for {
		line, rest, ended := bytes.Cut(tail, []byte{'\n'})
		if !ended {
			break
		}
		if err := give(line, len(line)+1); err != nil {
			return false, err
		}
		tail = rest
	}
	switch {
	case len(tail) == logPage:
		tail = wholeRunes(tail)
	case given || len(tail) == 0 || !l.run.Status.Final():
		return given, nil
	}
	return true, give(tail, len(tail))
}

// wholeRunes is data without the beginning of a character at its end. Bytes
// that are no UTF-8 stay.
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
