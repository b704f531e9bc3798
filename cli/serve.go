package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/server"
)

func newServeCommand(t Terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "serve [config folder]",
		Short: "Serve the API and execute runs, with the database of the configuration",
		Long: "Serve the API and execute runs until SIGTERM or Ctrl-C. The configuration is\n" +
			defaultConfigDir + "/config.yml, or that of the folder given, and the environment. Any number of\n" +
			"servers may share one database.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return serve(cmd.Context(), args, t) },
	}
}

// serve runs the service with the configuration of the folder in args until ctx ends.
func serve(ctx context.Context, args []string, t Terminal) error {
	cfg, warnings, err := readConfig(args, t.Environ)
	if err != nil {
		return err
	}
	logger := newLogger(t.Stderr, cfg.LogLevel, warnings)
	s, err := server.New(ctx, server.Config{Config: cfg, Logger: logger})
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

func newDevCommand(t Terminal) *cobra.Command {
	var o server.DevOptions
	var configDir string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Serve on this machine alone: private Postgres, jobs as local processes",
		Long: "Serve on the loopback interface until Ctrl-C, with a Postgres of its own and jobs as\n" +
			"processes of this machine under real memory limits. Needs nothing but Postgres's server\n" +
			"binaries. A second start finds what the first one left in the data folder.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Ready = func(s server.Ready) { greet(t.Stdout, s) }
			return dev(cmd.Context(), configDir, o, t)
		},
	}
	cmd.Flags().StringVar(&o.Listen, "listen", "127.0.0.1:5000", "address of the API")
	cmd.Flags().StringVar(&o.DataDir, "data-dir", ".flotilla", "folder of the database, logs and work folders")
	cmd.Flags().StringVar(&configDir, "config", "", "folder of a config.yml; every key works by environment too")
	return cmd
}

// dev serves until ctx ends, see server.Dev.
func dev(ctx context.Context, configDir string, o server.DevOptions, t Terminal) error {
	cfg, warnings, err := config.Load(configDir, t.Environ)
	if err != nil {
		return err
	}
	return server.Dev(ctx, server.Config{Config: cfg, Logger: newLogger(t.Stderr, cfg.LogLevel, warnings)}, o)
}

// greet prints the address and commands to try.
func greet(out io.Writer, s server.Ready) {
	fmt.Fprintf(out, `Flotilla answers at %[1]s (Ctrl-C ends it; the next start finds what this one keeps). Try:

  curl -s %[1]s/api/v6/task
  curl -s -X PUT -H 'Content-Type: application/json' -d '{"run_tags":{"owner_id":"me"}}' %[1]s/api/v6/task/alias/hello/execute
  curl -s '%[1]s/api/v6/history?sort_by=queued_at&order=desc&limit=1'

`, s.URL)
}
