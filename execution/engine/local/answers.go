package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

// Terminate ends what this node has of a run. A run of another node is that node's to end: it asks the database.
func (e *Engine) Terminate(_ context.Context, run state.Run) error {
	if run.ClaimedBy == nil || *run.ClaimedBy != e.node {
		return nil
	}
	e.dropWaiting(run.RunID)
	return terminate(e.folder(run.RunID, int(run.Attempt())))
}

// end is Terminate for a run of which only the id is known.
func (e *Engine) end(runID string) error {
	if t, active := e.admission.get(runID); active {
		return terminate(e.folder(runID, t.attempt))
	}
	e.dropWaiting(runID)
	return nil
}

func (e *Engine) dropWaiting(runID string) {
	if e.admission.drop(runID) {
		e.poke()
	}
}

// Events tells what is known of the run's attempts, in the words that Kubernetes uses of containers.
func (e *Engine) Events(_ context.Context, run state.Run) (state.PodEvents, error) {
	events := state.PodEvents{}
	for attempt := 1; attempt <= int(run.Attempt()); attempt++ {
		folder := e.folder(run.RunID, attempt)
		add := func(kind, reason, message string) {
			events = append(events, state.PodEvent{EventType: kind, Reason: reason, Message: message, SourceObject: folder.name()})
		}
		started, err := folder.ReadStarted()
		if err != nil {
			return nil, err
		}
		exit, err := folder.ReadExit()
		if err != nil {
			return nil, err
		}
		if started != nil && (exit == nil || !exit.NeverStarted) {
			add("Normal", "Started", fmt.Sprintf("Started process %d on %s", started.PID, e.host))
			events[len(events)-1].Timestamp = &started.StartedAt
		}
		if exit != nil {
			add(exit.event())
			events[len(events)-1].Timestamp = &exit.FinishedAt
		}
	}
	return events, nil
}

func (x Exit) event() (kind, reason, message string) {
	message = fmt.Sprintf("Ended with code %d: %s", x.ExitCode, x.Reason)
	switch {
	case x.OOMKilled:
		return "Warning", oomReason, message
	case x.NeverStarted:
		return "Warning", "Failed", message
	case x.ExitCode != 0:
		return "Warning", failureReason, message
	default:
		return "Normal", successReason, message
	}
}

// Manifest is the attempt's spec.
func (e *Engine) Manifest(_ context.Context, run state.Run) ([]byte, error) {
	spec, err := e.folder(run.RunID, int(run.Attempt())).ReadSpec()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, state.Missingf("Run %s has no manifest here.", run.RunID)
	}
	if err != nil {
		return nil, err
	}
	return yaml.Marshal(spec)
}

// Logs reads from the attempts' log files as if they were one, each after the first opened by a line that says so.
func (e *Engine) Logs(_ context.Context, run state.Run, q engine.LogQuery) (engine.LogChunk, error) {
	chunk := engine.LogChunk{Next: max(0, q.Offset)}
	runFolder := filepath.Dir(string(e.folder(run.RunID, 1)))
	if _, err := os.Stat(runFolder); errors.Is(err, fs.ErrNotExist) {
		if run.InstanceID != "" && run.InstanceID != e.node {
			return chunk, state.Missingf("The log of run %s is kept by the server on %s.", run.RunID, run.InstanceDNS)
		}
		return chunk, nil
	}
	skip, left := chunk.Next, max(1, q.Limit)
	for attempt := 1; attempt <= int(run.Attempt()) && left > 0; attempt++ {
		part, size, err := readAttempt(e.folder(run.RunID, attempt), attempt, skip, left)
		if err != nil {
			return chunk, err
		}
		chunk.Data = append(chunk.Data, part...)
		left -= int64(len(part))
		skip = max(0, skip-size)
	}
	chunk.Next += int64(len(chunk.Data))
	return chunk, nil
}

// readAttempt answers a part of one attempt's log with its heading, and the whole's size. An attempt that wrote nothing
// has no heading, so that positions behind it hold when it begins to write.
func readAttempt(folder Folder, attempt int, skip, limit int64) ([]byte, int64, error) {
	file, err := os.Open(folder.LogPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("reading a log: %w", err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil || info.Size() == 0 {
		return nil, 0, err
	}
	heading := ""
	if attempt > 1 {
		heading = fmt.Sprintf("--- attempt %d ---\n", attempt)
	}
	size := int64(len(heading)) + info.Size()
	if skip >= size {
		return nil, size, nil
	}
	var part []byte
	if skip < int64(len(heading)) {
		part = []byte(heading[skip:])
		part = part[:min(int64(len(part)), limit)]
	}
	from := max(0, skip-int64(len(heading)))
	body := make([]byte, min(limit-int64(len(part)), info.Size()-from))
	n, err := file.ReadAt(body, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, fmt.Errorf("reading a log: %w", err)
	}
	return append(part, body[:n]...), size, nil
}
