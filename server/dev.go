package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/stitchfix/flotilla-os/clients/postgres"
	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/services"
	"github.com/stitchfix/flotilla-os/state"
)

// DevOptions are the flags of dev mode.
type DevOptions struct {
	// Listen is a loopback address, unless the API has tokens.
	Listen string
	// DataDir holds the database, the logs and the folders of runs.
	DataDir string
	// Ready is called once requests are answered, if it is not nil.
	Ready func(Ready)
}

// Ready describes a dev server that serves requests.
type Ready struct {
	URL    string
	Config config.Config
}

// Dev serves this machine alone until ctx ends. Jobs are local processes. If c names no database, Dev starts a private
// Postgres. When it returns, everything that it started has ended except the runs, which the next start finds.
func Dev(ctx context.Context, c Config, o DevOptions) (err error) {
	if err := devDefaults(&c.Config, o); err != nil {
		return err
	}
	c.DevMode = true
	if c.Listener, err = listen(ctx, o.Listen); err != nil {
		return err
	}
	defer func() {
		if closeErr := c.Listener.Close(); closeErr != nil && !errors.Is(closeErr, net.ErrClosed) {
			err = errors.Join(err, closeErr)
		}
	}()
	if c.Config.DatabaseURL != "" {
		return serveDev(ctx, c, o.Ready)
	}
	return withPrivatePostgres(ctx, postgres.ServerConfig{DataDir: o.DataDir, Logger: c.Logger}, func(ctx context.Context, url string) error {
		c.Config.DatabaseURL = url
		return serveDev(ctx, c, o.Ready)
	})
}

// devDefaults checks the flags of dev mode and adds the local cluster.
func devDefaults(cfg *config.Config, o DevOptions) error {
	host, _, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return fmt.Errorf("--listen %q is not an address such as 127.0.0.1:5000", o.Listen)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) && len(cfg.HTTP.APITokens) == 0 {
		return fmt.Errorf("--listen %s is not a loopback address: without http_server_api_tokens every client that reaches it could run commands on this machine", o.Listen)
	}
	folder, err := filepath.Abs(o.DataDir)
	if err != nil {
		return err
	}
	cfg.Local.Enabled = true
	cfg.Local.DataDir = folder
	cfg.HTTP.ListenAddress = o.Listen
	return nil
}

// withPrivatePostgres calls use with the URL of a Postgres that lives as long as the call. The context of use is
// cancelled if Postgres dies.
func withPrivatePostgres(ctx context.Context, c postgres.ServerConfig, use func(ctx context.Context, url string) error) (err error) {
	database, err := postgres.Start(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, database.Stop(context.WithoutCancel(ctx))) }()
	group, ctx := errgroup.WithContext(ctx)
	served := make(chan struct{})
	group.Go(func() error {
		defer close(served)
		return use(ctx, database.URL())
	})
	group.Go(func() error {
		select {
		case <-database.Done():
			return fmt.Errorf("the private Postgres ended: %w", database.Err())
		case <-served:
			return nil
		}
	})
	return group.Wait()
}

func serveDev(ctx context.Context, c Config, ready func(Ready)) error {
	s, err := New(ctx, c)
	if err != nil {
		return err
	}
	if err := loadSamples(ctx, s.definitions); err != nil {
		s.close(context.WithoutCancel(ctx))
		return err
	}
	if ready != nil {
		ready(Ready{URL: "http://" + c.Listener.Addr().String(), Config: c.Config})
	}
	return s.Run(ctx)
}

// loadSamples stores the sample definitions in a database without any definition: a sample that its user deleted stays
// deleted.
func loadSamples(ctx context.Context, definitions *services.DefinitionService) error {
	const group, image = "samples", "debian:bookworm"
	stored, err := definitions.List(ctx, state.ListOptions{})
	if err != nil || stored.Total > 0 {
		return err
	}
	for alias, command := range map[string]string{
		"hello":  "echo \"hello, $FLOTILLA_RUN_OWNER_ID\"",
		"count":  "for i in $(seq 1 20); do echo \"$i of 20\"; sleep 1; done",
		"hungry": "head -c 700M /dev/zero | tail | wc -c",
	} {
		_, err := definitions.Create(ctx, state.Definition{
			Alias: alias, GroupName: group, Image: image, Memory: new(int64(512)), CPU: new(int64(250)),
			Command: &command, Tags: []string{"sample"},
		})
		if err != nil && !errors.As(err, new(state.ConflictingResource)) {
			return err
		}
	}
	return nil
}
