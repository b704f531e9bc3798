package services

import (
	"context"
	"log/slog"

	"github.com/stitchfix/flotilla-os/state"
)

// Events of the audit lines. The first two keep the names that existing log
// searches look for.
const (
	eventRunCreated         = "FlotillaSubmitTask"
	eventRunStatus          = state.EventTaskStatus
	eventDefinitionCreated  = "definition_created"
	eventDefinitionUpdated  = "definition_updated"
	eventDefinitionDeleted  = "definition_deleted"
	eventTemplateCreated    = "template_created"
	eventClusterCreated     = "cluster_created"
	eventClusterUpdated     = "cluster_updated"
	eventClusterDeleted     = "cluster_deleted"
	eventWorkerCountUpdated = "worker_count_updated"
)

// unknownActor stands for who acted where the API is open and no header says.
const unknownActor = "unknown"

// audit writes the one line of a change: what happened and who did it. owner
// is the owner that the request names, empty where it names none.
func audit(ctx context.Context, logger *slog.Logger, event, owner string, attrs ...any) {
	actor := ActorFrom(ctx)
	who := unknownActor
	for _, name := range []string{actor.Email, actor.Token, owner} {
		if name != "" {
			who = name
			break
		}
	}
	line := []any{"event", event, "who", who, "token", actor.Token, "email", actor.Email, "owner", owner}
	logger.InfoContext(ctx, "audit", append(line, attrs...)...)
}
