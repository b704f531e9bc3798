package logs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	// markInterval is how often the mark is set while a log is copied.
	markInterval = 5 * time.Second
	lineBuffer   = 64 << 10
	// lateStart is how long after its container's start a log may begin: every command is traced by its shell at once,
	// so that one that begins later has lost its beginning.
	lateStart = 15 * time.Second
)

// The lines that stand for what the cluster did not keep.
const (
	GapLine       = "--- the cluster did not keep a part of this log ---\n"
	BeginningLine = "--- the cluster did not keep the beginning of this log ---\n"
)

// Source is a pod's log, from the mark's second on, with timestamps.
type Source struct {
	Reader io.Reader
	// Started is when the container started; zero where that is not known.
	Started time.Time
}

// Copy appends to a log what its source has beyond it, until the source ends. Lines without a time do not come from
// the container but from the cluster, and are left out. An error leaves the log so that another Copy can go on.
func Copy(w Writer, from Source) error {
	resumed, err := w.Mark()
	if err != nil {
		return err
	}
	c := &copier{
		w: w, out: bufio.NewWriterSize(w, lineBuffer), started: from.Started,
		resumed: resumed, skip: resumed.Bytes + resumed.Extra, savedAt: time.Now(),
	}
	err = c.copy(bufio.NewReaderSize(from.Reader, lineBuffer))
	return errors.Join(err, c.flush(), c.save())
}

// copier is one Copy. What it counts, it counts from the source alone, so that lines that the archive has already are
// counted as well.
type copier struct {
	w       Writer
	out     *bufio.Writer
	started time.Time
	resumed Mark
	skip    int64 // bytes that the archive has already
	byTime  bool  // the archive's end cannot be found by counting: lines up to its last time are left out
	leave   bool  // the present line is left out
	any     bool  // a line came
	at      time.Time
	last    time.Time // the latest line's time
	// older and newer are the places that a later copy can begin at: the last two seconds of which there are lines.
	// Lines of two streams may be out of order by little, so that the second last one is safe.
	older, newer Mark
	savedAt      time.Time
}

func (c *copier) copy(in *bufio.Reader) error {
	begins := true
	for {
		data, err := in.ReadSlice('\n')
		ended := err == nil
		if begins && len(data) > 0 {
			text, begun := c.begin(data)
			if begun != nil {
				return begun
			}
			data = text
		}
		if put := c.put(data); put != nil {
			return put
		}
		begins = ended
		if in.Buffered() == 0 {
			// Nothing more has come yet: let readers see what has.
			if err := c.pause(); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("logs: reading the pod's log: %w", err)
		}
	}
}

// begin takes a line's time off it and finds the line's place.
func (c *copier) begin(data []byte) ([]byte, error) {
	stamp, text, found := bytes.Cut(data, []byte{' '})
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if c.leave = !found || err != nil; c.leave {
		return nil, nil
	}
	c.at = at
	note := ""
	if !c.any {
		c.any = true
		note = c.first()
	}
	if second := at.Truncate(time.Second); c.newer.First.IsZero() || second.After(c.newer.Since) {
		c.older, c.newer = c.newer, Mark{Since: second, First: at}
	}
	if at.After(c.last) {
		c.last = at
	}
	if note != "" {
		if _, err := c.out.WriteString(note); err != nil {
			return nil, fmt.Errorf("logs: writing the archive: %w", err)
		}
		// The note is no line of the source: whoever goes on must not count it.
		if err := errors.Join(c.flush(), c.save()); err != nil {
			return nil, err
		}
	}
	c.byTime = c.byTime && !at.After(c.resumed.Last)
	c.leave = c.byTime
	return text, nil
}

// first compares the source's first line with where the last copy ended, and answers what is to be said about it.
func (c *copier) first() string {
	begun := c.resumed.First
	switch {
	case begun.IsZero() && c.resumed.Extra == 0:
		if !c.started.IsZero() && c.at.Sub(c.started) > lateStart {
			return BeginningLine
		}
	case begun.IsZero() || c.at.Equal(begun):
	case c.at.After(c.resumed.Last):
		c.skip = 0
		return GapLine
	default:
		c.skip, c.byTime = 0, true
	}
	return ""
}

// put writes a part of a line, as far as the archive does not have it.
func (c *copier) put(data []byte) error {
	if !c.any || len(data) == 0 {
		return nil
	}
	for _, m := range []*Mark{&c.older, &c.newer} {
		if !m.First.IsZero() && !c.at.Before(m.Since) {
			m.Bytes += int64(len(data))
		}
	}
	if c.leave {
		return nil
	}
	skipped := min(c.skip, int64(len(data)))
	c.skip -= skipped
	if _, err := c.out.Write(data[skipped:]); err != nil {
		return fmt.Errorf("logs: writing the archive: %w", err)
	}
	return nil
}

func (c *copier) flush() error {
	if err := c.out.Flush(); err != nil {
		return fmt.Errorf("logs: writing the archive: %w", err)
	}
	return nil
}

func (c *copier) pause() error {
	if err := c.flush(); err != nil || time.Since(c.savedAt) < markInterval {
		return err
	}
	return c.save()
}

// save sets the mark, once everything that the archive has was counted.
func (c *copier) save() error {
	if !c.any || c.skip > 0 || c.byTime {
		return nil
	}
	m := c.older
	if m.First.IsZero() {
		m = c.newer
	}
	m.Last = c.last
	c.savedAt = time.Now()
	return c.w.SetMark(m)
}
