package cli

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/stitchfix/flotilla-os/state/database"
)

func newMigrateCommand(t Terminal) *cobra.Command {
	var dropUnused bool
	cmd := &cobra.Command{
		Use:   "migrate [config folder]",
		Short: "Bring the configured database to this program's schema, indexes included",
		Long: "Bring the configured database to this program's schema, indexes included, while others use it.\n" +
			"With --drop-unused, also drop the indexes of the program before that no query of this one uses.\n" +
			"flotilla-os check takeover lists them first.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, warnings, err := readConfig(args, t.Environ)
			if err != nil {
				return err
			}
			logger := newLogger(t.Stderr, cfg.LogLevel, warnings)
			if err := database.Migrate(cmd.Context(), cfg.DatabaseURL, logger); err != nil {
				return err
			}
			if err := database.BuildIndexes(cmd.Context(), cfg.DatabaseURL, logger); err != nil {
				return err
			}
			fmt.Fprintln(t.Stdout, "The database is up to date.")
			if !dropUnused {
				return nil
			}
			dropped, err := database.DropUnused(cmd.Context(), cfg.DatabaseURL, logger)
			if printErr := printDropped(t, dropped); err == nil {
				err = printErr
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&dropUnused, "drop-unused", false, "drop the old program's indexes that serve no query of this one")
	return cmd
}

// printDropped prints each index that was dropped with what it cost.
func printDropped(t Terminal, dropped []database.UnusedIndex) error {
	if len(dropped) == 0 {
		fmt.Fprintln(t.Stdout, "No index was dropped.")
		return nil
	}
	table := tabwriter.NewWriter(t.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DROPPED INDEX\tSIZE\tREADS\tWRITES\tWHY")
	for _, index := range dropped {
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\n", index.Name, megabytes(index.SizeBytes), index.Scans, index.Writes, index.Reason)
	}
	return table.Flush()
}
