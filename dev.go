package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/stitchfix/flotilla-os/clients/postgres"
	"github.com/stitchfix/flotilla-os/config"
)

// devOptions are the flags of "dev".
type devOptions struct {
	Listen    string
	DataDir   string
	ConfigDir string
	// Ready is told once requests are answered; nil tells nobody.
	Ready func(devServer)
}

// devServer is a dev mode that answers.
type devServer struct {
	URL    string
	Config config.Config
}

func newDevCommand(t terminal) *cobra.Command {
	var o devOptions
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Serve on this machine alone: private Postgres, jobs as local processes",
		Long: "Serve on the loopback interface until Ctrl-C, with a Postgres of its own and jobs as\n" +
			"processes of this machine under real memory limits. Needs nothing but Postgres's server\n" +
			"binaries. A second start finds what the first one left in the data folder.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Ready = func(s devServer) { greet(t.stdout, s) }
			return dev(cmd.Context(), o, t)
		},
	}
	cmd.Flags().StringVar(&o.Listen, "listen", "127.0.0.1:5000", "address of the API")
	cmd.Flags().StringVar(&o.DataDir, "data-dir", ".flotilla", "folder of the database, logs and work folders")
	cmd.Flags().StringVar(&o.ConfigDir, "config", "", "folder of a config.yml; every key works by environment too")
	return cmd
}

// dev serves until ctx ends. What it started, Postgres included, has ended
// when it returns; runs go on and are found again by the next start.
func dev(ctx context.Context, o devOptions, t terminal) (err error) {
	cfg, warnings, err := config.Load(o.ConfigDir, t.environ)
	if err != nil {
		return err
	}
	if err := devDefaults(&cfg, o); err != nil {
		return err
	}
	logger := newLogger(t.stderr, cfg.LogLevel)
	warn(logger, warnings)
	listener, err := listen(ctx, o.Listen)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := listener.Close(); closeErr != nil && !errors.Is(closeErr, net.ErrClosed) {
			err = errors.Join(err, closeErr)
		}
	}()
	serve := func(ctx context.Context, cfg config.Config) error {
		return serveDev(ctx, programConfig{Config: cfg, Logger: logger, DevMode: true, Listener: listener}, o.Ready)
	}
	if cfg.DatabaseURL != "" {
		return serve(ctx, cfg)
	}
	return withPrivatePostgres(ctx, postgres.ServerConfig{DataDir: o.DataDir, Logger: logger}, func(ctx context.Context, url string) error {
		cfg.DatabaseURL = url
		return serve(ctx, cfg)
	})
}

// withPrivatePostgres calls use with the URL of a Postgres of our own, and
// ends that Postgres. The context of use ends too where Postgres does.
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

// serveDev serves with everything configured, and says when it is ready.
func serveDev(ctx context.Context, c programConfig, ready func(devServer)) error {
	p, err := newProgram(ctx, c)
	if err != nil {
		return err
	}
	if err := loadSamples(ctx, p.services.definitions); err != nil {
		p.close(context.WithoutCancel(ctx))
		return err
	}
	if ready != nil {
		ready(devServer{URL: "http://" + c.Listener.Addr().String(), Config: c.Config})
	}
	return p.run(ctx)
}

// devDefaults turns a configuration into that of dev mode: a local cluster
// that runs go to unless told otherwise.
func devDefaults(cfg *config.Config, o devOptions) error {
	host, _, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return fmt.Errorf("--listen %q is not an address such as 127.0.0.1:5000", o.Listen)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) && len(cfg.HTTP.APITokens) == 0 {
		return fmt.Errorf("--listen %s is not a loopback address: without http_server_api_tokens anybody there could run commands on this machine", o.Listen)
	}
	folder, err := filepath.Abs(o.DataDir)
	if err != nil {
		return err
	}
	cfg.Local.Enabled = true
	cfg.Local.DataDir = folder
	cfg.HTTP.ListenAddress = o.Listen
	if cfg.EKS.ClusterDefault == "" {
		cfg.EKS.ClusterDefault = cfg.Local.ClusterName
	}
	return nil
}
