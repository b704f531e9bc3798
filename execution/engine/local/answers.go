package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"github.com/stitchfix/flotilla-os/clients/logs"
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

// Logs reads a part of the log files of the run's attempts.
func (e *Engine) Logs(_ context.Context, run state.Run, q engine.LogQuery) (engine.LogChunk, error) {
	runFolder := filepath.Dir(string(e.folder(run.RunID, 1)))
	if _, err := os.Stat(runFolder); errors.Is(err, fs.ErrNotExist) {
		if run.InstanceID != "" && run.InstanceID != e.node {
			return engine.LogChunk{Next: q.Offset}, state.Missingf("The log of run %s is kept by the server on %s.", run.RunID, run.InstanceDNS)
		}
		return engine.LogChunk{Next: q.Offset, Complete: run.Status.Final()}, nil
	}
	return engine.JoinAttempts(run.Attempt(), q, func(attempt, offset, limit int64) (logs.Part, error) {
		return readLog(e.folder(run.RunID, int(attempt)), attempt < run.Attempt(), offset, limit)
	})
}

// readLog reads a part of one attempt's log. ended reports that the attempt is known to have ended.
func readLog(folder Folder, ended bool, offset, limit int64) (logs.Part, error) {
	if !ended {
		// The end is read first: what an ended attempt wrote is in the file already.
		exit, err := folder.ReadExit()
		if err != nil {
			return logs.Part{}, err
		}
		ended = exit != nil
	}
	part, err := logs.ReadFile(folder.LogPath(), offset, limit)
	part.Complete = ended
	return part, err
}
