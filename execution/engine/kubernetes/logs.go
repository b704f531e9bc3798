package kubernetes

import (
	"context"
	"errors"
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

// Logs reads a part of the archived logs of the run's attempts. What the archive lacks is fetched from the cluster.
func (e *Engine) Logs(ctx context.Context, run state.Run, q engine.LogQuery) (engine.LogChunk, error) {
	return engine.JoinAttempts(run.Attempt(), q, func(attempt, offset, limit int64) (logs.Part, error) {
		p := e.logbook.placeOfRun(run, attempt)
		if !p.ended && run.StartedAt == nil && attempt == 1 {
			return logs.Part{}, nil // nothing runs yet
		}
		part, err := e.cfg.Archive.Read(ctx, p.key, offset, limit)
		if err == nil && !part.Complete && (len(part.Data) == 0 || p.ended) {
			return reading{engine: e, place: p}.fetch(ctx, offset, limit)
		}
		return part, err
	})
}

// reading is a look at one attempt's log.
type reading struct {
	engine *Engine
	place  place
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
