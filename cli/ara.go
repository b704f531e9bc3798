package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/stitchfix/flotilla-os/clients/postgres"
	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/state"
)

// verifyOptions are the flags of "ara verify".
type verifyOptions struct {
	// Since is the age of the oldest runs that are checked.
	Since time.Duration
	// JSON prints the report as JSON instead of a table.
	JSON bool
	// DataDir is the folder of a running dev mode, whose database is checked; empty means the configured database.
	DataDir string
}

func newARACommand(t Terminal) *cobra.Command {
	ara := &cobra.Command{
		Use:   "ara",
		Short: "Look after Adaptive Resource Allocation",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var o verifyOptions
	verify := &cobra.Command{
		Use:   "verify [config folder]",
		Short: "Check that every run is identified by its own command",
		Long: "Check the runs queued since --since: each has the MD5 of its command as its hash,\n" +
			"and no hash stands for two commands. Exit status 1 when one of these does not hold.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := configToVerify(args, o.DataDir, t.Environ)
			if err != nil {
				return err
			}
			return verifyARA(cmd.Context(), cfg, o, t.Stdout)
		},
	}
	verify.Flags().DurationVar(&o.Since, "since", time.Hour, "how far back to look, for example 24h")
	verify.Flags().BoolVar(&o.JSON, "json", false, "print the report as JSON")
	verify.Flags().StringVar(&o.DataDir, "data-dir", "", "look at the database of the dev mode that runs in this folder")
	ara.AddCommand(verify)
	return ara
}

// configToVerify returns the configuration of the folder in args. With a data folder it returns that of the dev mode that
// runs there, with the URL of its database.
func configToVerify(args []string, dataDir string, environ []string) (config.Config, error) {
	if dataDir == "" {
		cfg, _, err := readConfig(args, environ)
		return cfg, err
	}
	cfg, _, err := config.Load("", environ)
	if err == nil {
		cfg.DatabaseURL, err = postgres.RunningURL(dataDir)
	}
	return cfg, err
}

// verifyARA prints the report and fails if it is not clean.
func verifyARA(ctx context.Context, cfg config.Config, o verifyOptions, out io.Writer) error {
	manager, err := state.NewManager(state.ManagerConfig{
		URL: cfg.DatabaseURL, MaxOpen: 1, MaxIdle: 1, Logger: slog.New(slog.DiscardHandler), ARA: cfg.ARA,
	})
	if err != nil {
		return err
	}
	report, err := manager.VerifyARA(ctx, time.Now().Add(-o.Since))
	if closeErr := manager.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := printReport(report, o.JSON, out); err != nil {
		return err
	}
	if !report.Clean() {
		return errSilent
	}
	return nil
}

func printReport(report state.ARAReport, asJSON bool, out io.Writer) error {
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(report)
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	mustBeZero := func(what string, n int64) {
		verdict := "ok"
		if n != 0 {
			verdict = "MUST BE 0"
		}
		fmt.Fprintf(table, "%s\t%d\t%s\n", what, n, verdict)
	}
	fmt.Fprintf(table, "Runs queued since %s\t%d\t\n", report.Since.UTC().Format(time.RFC3339), report.Runs)
	mustBeZero("with a command but no hash", report.CommandsWithoutHash)
	mustBeZero("whose hash is not the MD5 of their command", report.WrongHashes)
	mustBeZero("hashes shared by different commands", report.SharedHashes)
	fmt.Fprintf(table, "without a command\t%d\t\n", report.WithoutCommand)
	fmt.Fprintf(table, "killed for memory\t%d\t\n", report.OOMKills)
	fmt.Fprintf(table, "given more memory than asked for\t%d\t\n", report.Adjusted)
	fmt.Fprintf(table, "at the maximum size\t%d\t\n", report.AtMaximum)
	return table.Flush()
}
