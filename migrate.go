package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/state"
)

func newMigrateCommand(t terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "migrate [config folder]",
		Short: "Bring the configured database to this program's schema, indexes included",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := defaultConfigDir
			if len(args) == 1 {
				dir = args[0]
			}
			cfg, warnings, err := config.Load(dir, t.environ)
			if err != nil {
				return err
			}
			if err := cfg.RequireDatabase(); err != nil {
				return err
			}
			logger := newLogger(t.stderr, cfg.LogLevel)
			warn(logger, warnings)
			if err := state.Migrate(cmd.Context(), cfg.DatabaseURL, logger); err != nil {
				return err
			}
			if err := state.BuildIndexes(cmd.Context(), cfg.DatabaseURL, logger); err != nil {
				return err
			}
			fmt.Fprintln(t.stdout, "The database is up to date.")
			return nil
		},
	}
}
