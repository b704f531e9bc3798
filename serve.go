package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/stitchfix/flotilla-os/config"
)

// defaultConfigDir is where the configuration is read from when a command line
// names no folder.
const defaultConfigDir = "conf"

func newServeCommand(t terminal) *cobra.Command {
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

// configFolder is the folder that a command line names, or else the default.
func configFolder(args []string) string {
	if len(args) == 0 {
		return defaultConfigDir
	}
	return args[0]
}

// configured is the configuration of the folder that a command line names,
// which must have a database, and the logger that it asks for.
func configured(args []string, t terminal) (config.Config, *slog.Logger, error) {
	cfg, warnings, err := config.Load(configFolder(args), t.environ)
	if err != nil {
		return cfg, nil, err
	}
	if err := cfg.RequireDatabase(); err != nil {
		return cfg, nil, err
	}
	logger := newLogger(t.stderr, cfg.LogLevel)
	warn(logger, warnings)
	return cfg, logger, nil
}

// serve runs the service with the configuration that args names until ctx
// ends.
func serve(ctx context.Context, args []string, t terminal) error {
	cfg, logger, err := configured(args, t)
	if err != nil {
		return err
	}
	p, err := newProgram(ctx, programConfig{Config: cfg, Logger: logger})
	if err != nil {
		return err
	}
	return p.run(ctx)
}

// newLogger writes lines of at least the level that log_level names: JSON, but
// for a person at a terminal text. Kubernetes' client logs the same way.
func newLogger(w io.Writer, level string) *slog.Logger {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		least = slog.LevelInfo // config.Load accepts only levels
	}
	options := &slog.HandlerOptions{Level: least}
	logger := slog.New(slog.NewJSONHandler(w, options))
	if isTerminal(w) {
		logger = slog.New(slog.NewTextHandler(w, options))
	}
	klog.SetSlogLogger(logger)
	return logger
}

func warn(logger *slog.Logger, warnings []config.Warning) {
	for _, warning := range warnings {
		logger.Warn("configuration key without effect", "key", warning.Key, "detail", fmt.Sprint(warning))
	}
}
