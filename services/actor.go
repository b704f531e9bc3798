package services

import "context"

// Actor is who made a request, as far as the request says.
type Actor struct {
	// Token is the name of the API token, empty where the API is open.
	Token string
	// Email comes from the request header whose name contains "-email", which
	// a proxy in front sets.
	Email string
}

type actorKey struct{}

// WithActor makes a context that carries who is acting, for the audit lines.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorFrom is who is acting, zero where nobody said.
func ActorFrom(ctx context.Context) Actor {
	a, _ := ctx.Value(actorKey{}).(Actor)
	return a
}
