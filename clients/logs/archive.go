// Package logs archives the logs of runs, and copies the logs of pods into the archive. Kubernetes serves a log without
// positions, and only while the pod exists, so every position in a log that Flotilla hands out is one of bytes in an
// Archive.
package logs

import (
	"context"
	"errors"
	"time"
)

// ErrBusy reports that another writer has the log open.
var ErrBusy = errors.New("logs: somebody else writes this log")

// Key names the log of one attempt at a run.
type Key struct {
	RunID   string
	Attempt int64
}

// Part is a part of a log.
type Part struct {
	Data []byte
	// Size is how many bytes there are of the log so far.
	Size int64
	// Complete reports that Size is final.
	Complete bool
}

// Archive stores logs. Reading needs no lock; each log has one writer at a time, among all servers that share the
// archive. Files is the archive in a folder; one in an object store spools the same way and stores the whole log when
// it is complete.
type Archive interface {
	// Read returns up to limit bytes from offset on, or the empty Part if nothing of the log was written.
	Read(ctx context.Context, key Key, offset, limit int64) (Part, error)
	// Append opens a log for writing at its end. It returns ErrBusy if another writer has it open.
	Append(ctx context.Context, key Key) (Writer, error)
}

// Writer appends to one log.
type Writer interface {
	Write(data []byte) (int, error)
	// Mark returns what SetMark stored last, with Extra; the zero Mark for a new log.
	Mark() (Mark, error)
	// SetMark stores how far the source was read, for the next copy.
	SetMark(m Mark) error
	// Complete records that the log is whole.
	Complete() error
	Close() error
}

// Mark is a place in a pod's log. The log API finds places by whole seconds only, so a place is a second and a number
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
	// Extra counts the bytes of the archive that were written after the mark was; they follow Bytes. Set by Writer.Mark.
	Extra int64 `json:"-"`
}
