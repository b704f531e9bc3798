package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stitchfix/flotilla-os/state/database"
)

func newMigrateCommand(t Terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "migrate [config folder]",
		Short: "Bring the configured database to this program's schema, indexes included",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, logger, err := loadConfig(args, t)
			if err != nil {
				return err
			}
			if err := database.Migrate(cmd.Context(), cfg.DatabaseURL, logger); err != nil {
				return err
			}
			if err := database.BuildIndexes(cmd.Context(), cfg.DatabaseURL, logger); err != nil {
				return err
			}
			fmt.Fprintln(t.Stdout, "The database is up to date.")
			return nil
		},
	}
}
