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
		p := e.logOfRun(run, attempt)
		if !p.ended && run.StartedAt == nil && attempt == 1 {
			return logs.Part{}, nil // nothing runs yet
		}
		part, err := e.cfg.Archive.Read(ctx, p.key, offset, limit)
		if err == nil && !part.Complete && (len(part.Data) == 0 || p.ended) {
			return e.fetchLog(ctx, p, offset, limit)
		}
		return part, err
	})
}

// fetchLog has a log followed and reads it when there is something, or when all is there if the attempt has ended. If
// nothing can be fetched it returns what the archive has.
func (e *Engine) fetchLog(ctx context.Context, p podLog, offset, limit int64) (logs.Part, error) {
	s, begun := e.logStreams.start(p)
	patience := firstBytes
	if p.ended {
		patience = restOfLog
	} else if !begun { // a stream that goes on has brought what there is
		return e.cfg.Archive.Read(ctx, p.key, offset, limit)
	}
	timeout, tick := time.NewTimer(patience), time.NewTicker(readAgain)
	defer timeout.Stop()
	defer tick.Stop()
	for s != nil {
		part, err := e.cfg.Archive.Read(ctx, p.key, offset, limit)
		if err != nil || part.Complete || len(part.Data) > 0 && !p.ended {
			return part, err
		}
		select {
		case <-s.done:
			if s.err != nil && !errors.Is(s.err, logs.ErrBusy) {
				e.logger.Debug("log not fetched", "run_id", p.key.RunID, "error", s.err)
			}
			s = nil
		case <-timeout.C:
			s = nil
		case <-tick.C:
		case <-ctx.Done():
			return logs.Part{}, ctx.Err()
		}
	}
	return e.cfg.Archive.Read(ctx, p.key, offset, limit)
}
