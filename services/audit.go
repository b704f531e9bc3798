package services

import (
	"context"
	"log/slog"

	"github.com/stitchfix/flotilla-os/state"
)

// Events of the audit lines, besides state.EventTaskStatus. The first keeps the name of existing log searches.
const (
	eventRunCreated         = "FlotillaSubmitTask"
	eventDefinitionCreated  = "definition_created"
	eventDefinitionUpdated  = "definition_updated"
	eventDefinitionDeleted  = "definition_deleted"
	eventTemplateCreated    = "template_created"
	eventClusterCreated     = "cluster_created"
	eventClusterUpdated     = "cluster_updated"
	eventClusterDeleted     = "cluster_deleted"
	eventWorkerCountUpdated = "worker_count_updated"
)

// Actor identifies the maker of a request, as far as the request does.
type Actor struct {
	// Token is the name of the API token, empty if the API is open.
	Token string
	// Email comes from the request header whose name contains "-email", which a proxy in front sets.
	Email string
}

type actorKey struct{}

// WithActor returns a context that carries an Actor for the audit lines.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorFrom returns the Actor stored in ctx, or the zero Actor.
func ActorFrom(ctx context.Context) Actor {
	a, _ := ctx.Value(actorKey{}).(Actor)
	return a
}

// auditor returns the Auditor of a change made in ctx. owner is the owner that the request names, or empty.
func auditor(ctx context.Context, owner string) state.Auditor {
	actor := ActorFrom(ctx)
	by := state.Auditor{Who: "unknown", Token: actor.Token, Email: actor.Email}
	for _, name := range []string{owner, actor.Token, actor.Email} {
		if name != "" {
			by.Who = name
		}
	}
	return by
}

// audit logs the audit line of a change.
func audit(ctx context.Context, logger *slog.Logger, event, owner string, attrs ...any) {
	logger.InfoContext(ctx, "audit", append(state.AuditLine(event, auditor(ctx, owner), owner), attrs...)...)
}
