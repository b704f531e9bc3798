package flotilla

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/stitchfix/flotilla-os/config"
)

const (
	// idleTimeout bounds how long a connection stays open between requests.
	idleTimeout = 2 * time.Minute
	// maxHeaderBytes leaves room for a long list of filters in the address.
	maxHeaderBytes = 1 << 20
)

// NewServer returns the server of the API with the configured timeouts. The caller listens, serves and shuts it down.
func NewServer(h http.Handler, cfg config.HTTP, logger *slog.Logger) *http.Server {
	closing, shutdown := context.WithCancel(context.Background())
	server := &http.Server{
		Addr:              cfg.ListenAddress,
		Handler:           h,
		ReadTimeout:       cfg.ReadTimeout,
		ReadHeaderTimeout: cfg.ReadTimeout,
		WriteTimeout:      cfg.WriteTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(context.Background(), closingKey{}, closing)
		},
	}
	server.RegisterOnShutdown(shutdown)
	return server
}

type closingKey struct{}

// untilShutdown returns a copy of a request's ctx that also ends when the server shuts down. A shutdown waits for
// requests, and a request that follows a log may never end.
func untilShutdown(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	closing, ok := ctx.Value(closingKey{}).(context.Context)
	if !ok {
		return ctx, cancel
	}
	forget := context.AfterFunc(closing, cancel)
	return ctx, func() {
		forget()
		cancel()
	}
}

// answerWithin returns how long a request may take so that its answer is sent before the server's write timeout.
func answerWithin(cfg config.HTTP) time.Duration {
	return cfg.WriteTimeout - min(time.Second, cfg.WriteTimeout/10)
}
