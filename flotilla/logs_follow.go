package flotilla

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/stitchfix/flotilla-os/services"
	"github.com/stitchfix/flotilla-os/state"
)

const (
	// keepAlive is how often an event stream sends a comment, so that no proxy takes it for dead.
	keepAlive = 15 * time.Second
	// beginWithin bounds how long a request to follow a log waits for the database before its stream begins.
	beginWithin = 10 * time.Second
)

// followLog sends a log as server-sent events, one per line, until the run has stopped and its last byte is in. The id of
// an event is the position behind its line: a browser that reconnects goes on there. The last event is "end"; a
// reconnect after it gets 204, which ends the reconnecting.
func (e *endpoints) followLog(w http.ResponseWriter, r *http.Request, request services.LogRequest) error {
	runID := pathParam(r, "run_id")
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		request.LastSeen = id
	}
	// Only before the first byte can an unknown run be answered with 404. A browser gives up on 503, so a reader that
	// resumes a log, whose run was known, waits within the stream for a database that is away.
	asking, cancelAsking := context.WithTimeout(r.Context(), beginWithin)
	run, err := e.executions.Status(asking, runID)
	cancelAsking()
	if err != nil {
		if status, _ := statusOf(err); status != http.StatusServiceUnavailable || !e.logs.Resumes(runID, request) {
			return err
		}
	}
	if request.LastSeen == services.LogEnd && run.Status.Final() {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	events := &eventStream{stream: newStream(w, typeEventStream)}
	if err := events.send(": log of " + state.Shorten(runID, maxQuoted) + "\n\n"); err != nil {
		return err
	}
	ctx, cancel := untilShutdown(r.Context())
	var quiet sync.WaitGroup
	quiet.Go(func() { events.keepAlive(ctx) })
	run, err = e.logs.Follow(ctx, runID, request, events.line)
	cancel()
	quiet.Wait()
	if err != nil {
		return err
	}
	data, err := json.Marshal(followEnd{run.Status, run.ExitCode, run.ExitReason})
	if err != nil {
		return err
	}
	return events.send("event: end\nid: " + services.LogEnd + "\ndata: " + string(data) + "\n\n")
}

// followEnd is the data of the event "end".
type followEnd struct {
	Status     state.Status `json:"status"`
	ExitCode   *int64       `json:"exit_code,omitempty"`
	ExitReason *string      `json:"exit_reason,omitempty"`
}

// eventStream writes server-sent events. The lock keeps the lines of the log and the comments apart.
type eventStream struct {
	mu     sync.Mutex
	stream *stream
}

func (s *eventStream) send(text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.stream.Write([]byte(text)); err != nil {
		return err
	}
	return s.stream.flush()
}

// line sends one line of the log. A carriage return would end the field of the event, so what follows it becomes a field
// of its own.
func (s *eventStream) line(line []byte, lastSeen string) error {
	var event strings.Builder
	event.WriteString("id: " + lastSeen + "\n")
	line = bytes.TrimRight(line, "\r\n")
	for part := range bytes.FieldsFuncSeq(bytes.ToValidUTF8(line, []byte("\uFFFD")), isLineEnd) {
		event.WriteString("data: ")
		event.Write(part)
		event.WriteByte('\n')
	}
	if len(line) == 0 {
		event.WriteString("data:\n")
	}
	event.WriteByte('\n')
	return s.send(event.String())
}

func isLineEnd(c rune) bool { return c == '\r' || c == '\n' }

func (s *eventStream) keepAlive(ctx context.Context) {
	ticker := time.NewTicker(keepAlive)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if s.send(": still here\n\n") != nil {
				return
			}
		}
	}
}
