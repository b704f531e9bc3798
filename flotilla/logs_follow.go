package flotilla

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/stitchfix/flotilla-os/services"
)

// keepAlive is how often a quiet event stream says that it is still there.
const keepAlive = 15 * time.Second

// followLog answers a log as server-sent events, one per line, until the run
// has stopped and its log is out. The id of an event is the position behind
// its line: a browser that reconnects goes on there. The last event is "end".
func (e *endpoints) followLog(w http.ResponseWriter, r *http.Request, request services.LogRequest) error {
	runID := pathParam(r, "run_id")
	// Only before the first byte can an unknown run be answered with 404.
	if _, err := e.executions.Status(r.Context(), runID); err != nil {
		return err
	}
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		request.LastSeen = id
	}
	events := &eventStream{stream: newStream(w, typeEventStream)}
	if err := events.send(": log of " + clip(runID, maxQuoted) + "\n\n"); err != nil {
		return err
	}
	// A browser that is told nothing by its connection for long gives up.
	ctx, cancel := untilShutdown(r.Context())
	var quiet sync.WaitGroup
	quiet.Go(func() { events.keepAlive(ctx) })
	err := e.logs.Follow(ctx, runID, request, events.line)
	cancel()
	quiet.Wait()
	if err != nil {
		return err
	}
	return events.send("event: end\ndata:\n\n")
}

// eventStream writes server-sent events; the lock is between the lines of the
// log and the signs of life.
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

// line sends one line of the log. A carriage return would end the field of
// the event, so it begins a line of its own.
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
