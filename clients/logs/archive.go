// Package logs keeps what runs wrote, and reads the logs of pods into it. Kubernetes serves a log without positions
// and only as long as the pod is there, so that every position in a log that Flotilla gives out is one of bytes in an
// Archive.
package logs

import (
	"context"
	"errors"
	"time"
)

// ErrBusy says that somebody else is writing that log.
var ErrBusy = errors.New("logs: somebody else writes this log")

// Key names the log of one attempt at a run.
type Key struct {
	RunID   string
	Attempt int64
}

// Part is a part of an archived log.
type Part struct {
	Data []byte
	// Size is how many bytes the archive has of the log.
	Size int64
	// Complete says that there will be no more of them.
	Complete bool
}

// Archive keeps logs. Reading needs no lock; of one log there is one writer at a time, among all servers that share
// the archive. The file archive is Files; one in an object store spools the same way and stores the whole log when it
// is complete.
type Archive interface {
	// Read answers up to limit bytes from offset on; the empty Part where there is nothing of the log.
	Read(ctx context.Context, key Key, offset, limit int64) (Part, error)
	// Append opens a log for writing at its end; ErrBusy where somebody else does.
	Append(ctx context.Context, key Key) (Writer, error)
}

// Writer appends to one log.
type Writer interface {
	Write(data []byte) (int, error)
	// Mark is what SetMark stored last, with Extra; the zero Mark for a log that is new.
	Mark() (Mark, error)
	// SetMark notes how far the source was read, for whoever goes on later.
	SetMark(m Mark) error
	// Complete notes that the log is whole.
	Complete() error
	Close() error
}

// Mark is a place in a pod's log. The log API finds places by whole seconds only, so that one is a second and a number
// of bytes behind its beginning.
type Mark struct {
	// Since is the second, zero for the beginning of the log.
	Since time.Time `json:"since"`
	// First is the time of the first line that was read from there.
	First time.Time `json:"first"`
	// Last is the time of the latest line that was read.
	Last time.Time `json:"last"`
	// Bytes counts what was read of the lines from Since on.
	Bytes int64 `json:"bytes"`
	// Extra are bytes of the archive that were written after the mark was; they come after Bytes. Set by Writer.Mark.
	Extra int64 `json:"-"`
}
