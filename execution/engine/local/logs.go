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
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim"
	"github.com/stitchfix/flotilla-os/state"
)

// Events returns what is known of the run's attempts, in the words that Kubernetes uses of containers.
func (e *Engine) Events(_ context.Context, run state.Run) (state.PodEvents, error) {
	events := state.PodEvents{}
	for attempt := 1; attempt <= int(run.Attempt()); attempt++ {
		folder := e.folder(run.RunID, attempt)
		source := fmt.Sprintf("%s/attempt-%d", run.RunID, attempt)
		started, err := folder.ReadStarted()
		if err != nil {
			return nil, err
		}
		exit, err := folder.ReadExit()
		if err != nil {
			return nil, err
		}
		if started != nil && (exit == nil || !exit.NeverStarted) {
			events = append(events, state.PodEvent{
				Timestamp: &started.StartedAt, EventType: "Normal", Reason: "Started",
				Message: fmt.Sprintf("Started process %d on %s", started.PID, e.host), SourceObject: source,
			})
		}
		if exit == nil {
			continue
		}
		event := state.PodEvent{
			Timestamp: &exit.FinishedAt, EventType: "Warning", Reason: shim.ReasonError,
			Message: fmt.Sprintf("Ended with code %d: %s", exit.ExitCode, exit.Reason), SourceObject: source,
		}
		switch {
		case exit.OOMKilled:
			event.Reason = shim.ReasonOOM
		case exit.NeverStarted:
			event.Reason = "Failed"
		case exit.ExitCode == 0:
			event.EventType, event.Reason = "Normal", shim.ReasonCompleted
		}
		events = append(events, event)
	}
	return events, nil
}

// Manifest returns the attempt's spec, as YAML.
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
func readLog(folder shim.Folder, ended bool, offset, limit int64) (logs.Part, error) {
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
