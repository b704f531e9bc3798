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
	// lateStart is how long after its container's start a whole log may begin. The shell traces every command at once,
	// so a log that begins later has lost its beginning.
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
	// Started is when the container started, or zero if that is not known.
	Started time.Time
}

// Copy appends to a log what its source has beyond it, until the source ends. Lines without a time are the cluster's,
// not the container's, and are left out. After an error another Copy can continue where this one ended.
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
	return errors.Join(err, c.save())
}

// copier is one Copy. It counts lines of the source, whether or not the archive has them already.
type copier struct {
	w       Writer
	out     *bufio.Writer
	started time.Time
	resumed Mark
	skip    int64 // bytes that the archive has already
	byTime  bool  // counting cannot find the archive's end: lines up to its last time are left out
	leave   bool  // the present line is left out
	any     bool  // a line came
	at      time.Time
	last    time.Time // the latest line's time
	// older and newer are the places where a later copy can begin: the last two seconds that have lines. Lines of two
	// streams may be slightly out of order, so only the older one is safe.
	older, newer Mark
	savedAt      time.Time
}

func (c *copier) copy(in *bufio.Reader) error {
	begins := true
	for {
		data, readErr := in.ReadSlice('\n')
		if begins && len(data) > 0 {
			var err error
			if data, err = c.begin(data); err != nil {
				return err
			}
		}
		if err := c.put(data); err != nil {
			return err
		}
		begins = readErr == nil
		if in.Buffered() == 0 {
			// Nothing more has arrived, so readers get what has.
			if err := c.flush(); err != nil {
				return err
			}
			if time.Since(c.savedAt) >= markInterval {
				if err := c.save(); err != nil {
					return err
				}
			}
		}
		switch {
		case errors.Is(readErr, io.EOF):
			return nil
		case readErr != nil && !errors.Is(readErr, bufio.ErrBufferFull):
			return fmt.Errorf("logs: read the pod's log: %w", readErr)
		}
	}
}

// begin returns a line without its time, and decides whether the archive has the line already.
func (c *copier) begin(data []byte) ([]byte, error) {
	stamp, text, found := bytes.Cut(data, []byte{' '})
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if c.leave = !found || err != nil; c.leave {
		return nil, nil
	}
	note := ""
	if !c.any {
		note = c.compareFirst(at)
	}
	c.any, c.at = true, at
	if second := at.Truncate(time.Second); c.newer.First.IsZero() || second.After(c.newer.Since) {
		c.older, c.newer = c.newer, Mark{Since: second, First: at}
	}
	if at.After(c.last) {
		c.last = at
	}
	if note != "" {
		if _, err := c.out.WriteString(note); err != nil {
			return nil, fmt.Errorf("logs: write the archive: %w", err)
		}
		// The note is no line of the source, so the next copy must not count it.
		if err := c.save(); err != nil {
			return nil, err
		}
	}
	c.byTime = c.byTime && !at.After(c.resumed.Last)
	c.leave = c.byTime
	return text, nil
}

// compareFirst compares the time of the source's first line with where the last copy ended. It decides how the
// archive's end is found in the source, and returns the line that reports a gap, if there is one.
func (c *copier) compareFirst(at time.Time) string {
	begun := c.resumed.First
	switch {
	case begun.IsZero() && c.resumed.Extra == 0:
		if !c.started.IsZero() && at.Sub(c.started) > lateStart {
			return BeginningLine
		}
	case begun.IsZero() || at.Equal(begun):
	case at.After(c.resumed.Last):
		c.skip = 0
		return GapLine
	default:
		c.skip, c.byTime = 0, true
	}
	return ""
}

// put writes a part of a line, unless the archive has it.
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
		return fmt.Errorf("logs: write the archive: %w", err)
	}
	return nil
}

func (c *copier) flush() error {
	if err := c.out.Flush(); err != nil {
		return fmt.Errorf("logs: write the archive: %w", err)
	}
	return nil
}

// save writes what is buffered, and sets the mark if everything that the archive has was counted.
func (c *copier) save() error {
	if err := c.flush(); err != nil {
		return err
	}
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
