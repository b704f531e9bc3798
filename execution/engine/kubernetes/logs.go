package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/stitchfix/flotilla-os/clients/logs"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

const (
	// firstBytes is how long a reader waits for a stream that was just opened to give something.
	firstBytes = 500 * time.Millisecond
	// restOfLog is how long a reader of an ended run waits for the rest of its log.
	restOfLog = 3 * time.Second
	readAgain = 25 * time.Millisecond
)

// Logs reads from the archived logs of the attempts as if they were one, each after the first opened by a line that
// says so. What the archive lacks is fetched from the cluster.
func (e *Engine) Logs(ctx context.Context, run state.Run, q engine.LogQuery) (engine.LogChunk, error) {
	chunk := engine.LogChunk{Next: max(0, q.Offset)}
	skip, left := chunk.Next, max(1, q.Limit)
	for attempt := int64(1); attempt <= run.Attempt() && left > 0; attempt++ {
		p := e.logbook.placeOfRun(run, attempt)
		if !p.ended && run.StartedAt == nil && attempt == 1 {
			break // nothing runs yet
		}
		r := reading{engine: e, place: p, heading: headingOf(attempt)}
		part, size, complete, err := r.read(ctx, skip, left)
		if err != nil {
			return chunk, err
		}
		chunk.Data = append(chunk.Data, part...)
		left -= int64(len(part))
		skip = max(0, skip-size)
		if !complete {
			break // positions behind it are not known yet
		}
	}
	chunk.Next += int64(len(chunk.Data))
	return chunk, nil
}

func headingOf(attempt int64) string {
	if attempt == 1 {
		return ""
	}
	return fmt.Sprintf("--- attempt %d ---\n", attempt)
}

// reading is a look at one attempt's log.
type reading struct {
	engine  *Engine
	place   place
	heading string
}

// read answers a part of the attempt's log with its heading, the size of the whole, and whether that is all there will
// be. An attempt that wrote nothing has no heading.
func (r reading) read(ctx context.Context, skip, limit int64) (data []byte, size int64, complete bool, err error) {
	archive, key := r.engine.cfg.Archive, r.place.key
	heading := int64(len(r.heading))
	offset := max(0, skip-heading)
	part, err := archive.Read(ctx, key, offset, limit)
	if err == nil && !part.Complete && (len(part.Data) == 0 || r.place.ended) {
		part, err = r.fetch(ctx, offset, limit)
	}
	if err != nil || part.Size == 0 {
		return nil, 0, part.Complete, err
	}
	if skip < heading {
		data = []byte(r.heading[skip:])
	}
	data = append(data, part.Data...)
	return data[:min(int64(len(data)), limit)], heading + part.Size, part.Complete, nil
}

// fetch has the log followed and reads again, as soon as there is something, or everything where the attempt has
// ended. That nothing could be fetched is no error: what there is, is.
func (r reading) fetch(ctx context.Context, offset, limit int64) (logs.Part, error) {
	archive, key := r.engine.cfg.Archive, r.place.key
	s, begun := r.engine.logbook.start(r.place)
	patience := firstBytes
	switch {
	case r.place.ended:
		patience = restOfLog
	case !begun: // what there is, is in the archive
		return archive.Read(ctx, key, offset, limit)
	}
	timeout, tick := time.NewTimer(patience), time.NewTicker(readAgain)
	defer timeout.Stop()
	defer tick.Stop()
	for s != nil {
		part, err := archive.Read(ctx, key, offset, limit)
		if err != nil || part.Complete || len(part.Data) > 0 && !r.place.ended {
			return part, err
		}
		select {
		case <-s.done:
			if s.err != nil && !errors.Is(s.err, logs.ErrBusy) {
				r.engine.logger.Debug("log not fetched", "run_id", key.RunID, "error", s.err)
			}
			s = nil
		case <-timeout.C:
			s = nil
		case <-tick.C:
		case <-ctx.Done():
			return logs.Part{}, ctx.Err()
		}
	}
	return archive.Read(ctx, key, offset, limit)
}
