package kube

import (
	"context"
	"log/slog"
	"sync"
)

// maxWarnings bounds how many different warnings of one cluster are told apart.
const maxWarnings = 100

// warningCode is the only code of warnings that Kubernetes uses (RFC 7234, "miscellaneous persistent warning").
const warningCode = 299

// warnings logs what an API server warns of, each text once: it comes with every request of a kind.
type warnings struct {
	logger *slog.Logger
	mu     sync.Mutex
	seen   map[string]bool
}

// HandleWarningHeaderWithContext implements rest.WarningHandlerWithContext.
func (w *warnings) HandleWarningHeaderWithContext(ctx context.Context, code int, _ string, text string) {
	if code != warningCode || text == "" {
		return
	}
	w.mu.Lock()
	known := w.seen[text] || len(w.seen) >= maxWarnings
	if !known {
		if w.seen == nil {
			w.seen = map[string]bool{}
		}
		w.seen[text] = true
	}
	w.mu.Unlock()
	if !known {
		w.logger.WarnContext(ctx, "the API server warns", "warning", text)
	}
}
