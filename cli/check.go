package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/state"
)

func newCheckCommand(t Terminal) *cobra.Command {
	check := &cobra.Command{
		Use:   "check",
		Short: "Check an installation without changing it",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var asJSON bool
	takeover := &cobra.Command{
		Use:   "takeover [config folder]",
		Short: "List what will differ when this program takes over the database of the one before",
		Long: "Read the configuration and the database of an existing Flotilla, migrated or not, and list\n" +
			"what will differ once this program serves it. Nothing is changed, and the right to SELECT is enough.\n" +
			"Exit status 1 if something would stop the take-over.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, warnings, err := readConfig(args, t.Environ)
			if err != nil {
				return err
			}
			report, err := state.InspectTakeover(cmd.Context(), cfg.DatabaseURL, cfg.AdoptQueuedMaxAge)
			if err != nil {
				return fmt.Errorf("cannot read the database %s: %w", config.MaskDatabaseURL(cfg.DatabaseURL), err)
			}
			findings := takeoverFindings(cfg, warnings, report)
			if err := printFindings(t.Stdout, findings, report, asJSON); err != nil {
				return err
			}
			for _, f := range findings {
				if f.Level == levelStops {
					return errSilent
				}
			}
			return nil
		},
	}
	takeover.Flags().BoolVar(&asJSON, "json", false, "print the findings, and all that they are made from, as JSON")
	check.AddCommand(takeover)
	return check
}

// Levels of a finding, the most severe first.
const (
	levelStops   = "stops"   // the take-over fails until it is mended
	levelDiffers = "differs" // users or operators will notice it
	levelNote    = "note"    // done by the program, or worth knowing
)

// finding is one line of the check. Where names the key, the table or the kind of row that it is about.
type finding struct {
	Level   string   `json:"level"`
	Where   string   `json:"where"`
	Message string   `json:"message"`
	IDs     []string `json:"ids,omitempty"` // up to five examples
}

// takeoverFindings compares what the program before did with what this one does (docs/operations.md, Taking over).
func takeoverFindings(cfg config.Config, warnings []config.Warning, r state.TakeoverReport) []finding {
	var list []finding
	add := func(level, where, message string, ids ...string) {
		list = append(list, finding{level, where, message, ids})
	}
	count := func(level, where string, f state.Findings, message string) {
		if f.Count > 0 {
			add(level, where, fmt.Sprintf("%d %s", f.Count, message), f.IDs...)
		}
	}

	for _, w := range warnings {
		message := w.Message
		if strings.Contains(w.Key, "_s3_") {
			message += ": logs and manifests go to local.data_dir, and those that are in S3 are not read"
		}
		add(levelDiffers, w.Key, message)
	}

	schema := r.Schema
	if missing := len(schema.Missing) + len(schema.ForeignKeys); missing > 0 && len(schema.NotOwned) > 0 {
		add(levelStops, "schema", fmt.Sprintf("%d changes are needed and this role may not change %s: run flotilla-os migrate as their owner",
			missing, strings.Join(schema.NotOwned, ", ")))
	} else if missing > 0 && !cfg.CreateDatabaseSchema {
		add(levelStops, "schema", fmt.Sprintf("%d changes are needed and create_database_schema is false: run flotilla-os migrate", missing))
	} else if missing > 0 {
		add(levelNote, "schema", fmt.Sprintf("the first start adds %d tables and columns and drops %d foreign key",
			len(schema.Missing), len(schema.ForeignKeys)))
	}
	if n := len(schema.MissingIndexes); n > 0 {
		add(levelNote, "indexes", fmt.Sprintf("%d indexes are built in the background after the first start", n))
	}
	if n := len(schema.InvalidIndexes); n > 0 {
		add(levelNote, "indexes", fmt.Sprintf("%d indexes are invalid, left by interrupted builds", n), schema.InvalidIndexes...)
	}
	if n := len(schema.UnusedIndexes); n > 0 {
		var bytes int64
		for _, index := range schema.UnusedIndexes {
			bytes += index.SizeBytes
		}
		add(levelNote, "indexes", fmt.Sprintf("%d indexes of the old program, %s, serve no query of this one; flotilla-os migrate --drop-unused drops them",
			n, megabytes(bytes)))
	}

	count(levelDiffers, "definitions", r.ARAOff,
		"have adaptive_resource_allocation false, which the old program ignored; their runs will not be sized by history")
	if cfg.EKS.AllowDockerSocket {
		count(levelNote, "definitions", r.RequiresDocker, "require docker and get the node's socket, because eks_allow_docker_socket is on")
	} else {
		count(levelDiffers, "definitions", r.RequiresDocker, "require docker; their runs are STOPPED unless eks_allow_docker_socket is on")
	}
	count(levelNote, "definitions", r.EmptyTags, "hold an empty tag, which is no longer shown")
	count(levelDiffers, "runs", r.ActiveSpark, "are Spark runs that are not over: nothing executes, follows or stops them until Spark is supported")
	if stopped := r.SparkRuns - r.ActiveSpark.Count; stopped > 0 {
		add(levelNote, "runs", fmt.Sprintf("%d Spark runs have ended; they stay readable", stopped))
	}
	if !r.TakenOver {
		count(levelDiffers, "runs", r.LostInQueue, fmt.Sprintf("have been QUEUED for more than adopt_queued_max_age (%s); the first start stops them", cfg.AdoptQueuedMaxAge))
		count(levelNote, "runs", r.ActiveWithoutHash, "are not over and have no command_hash; the first start adds it")
		count(levelNote, "runs", r.ActiveWrongHash, "are not over and have a command_hash made from something else than their command; the first start corrects it")
	}
	for _, odd := range r.OddJSON {
		count(levelDiffers, odd.Table+"."+odd.Column, odd.Findings, "rows hold JSON of another shape; what cannot be read is left out")
	}
	for _, c := range r.Clusters {
		if c.Rows > 1 {
			add(levelDiffers, "clusters", fmt.Sprintf("%d rows are named %s; the one with the lowest id counts", c.Rows, c.Name))
		}
		if c.Stale {
			add(levelNote, "clusters", fmt.Sprintf("%s (%s) was neither changed nor used for 30 days", c.Name, c.Status))
		}
	}
	count(levelNote, "workers", r.DuplicateWorkers, "worker types have several rows; they are read as one")
	return list
}

// printFindings prints the most severe findings first.
func printFindings(out io.Writer, findings []finding, report state.TakeoverReport, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(struct {
			Findings []finding            `json:"findings"`
			Database state.TakeoverReport `json:"database"`
		}{append([]finding{}, findings...), report})
	}
	if len(findings) == 0 {
		fmt.Fprintln(out, "Nothing will differ.")
		return nil
	}
	for _, level := range []string{levelStops, levelDiffers, levelNote} {
		for _, f := range findings {
			if f.Level != level {
				continue
			}
			fmt.Fprintf(out, "%-8s %s: %s", f.Level, f.Where, f.Message)
			if len(f.IDs) > 0 {
				fmt.Fprintf(out, " (for example %s)", strings.Join(f.IDs, ", "))
			}
			fmt.Fprintln(out)
		}
	}
	return nil
}

// megabytes formats a size in MB (10⁶ bytes).
func megabytes(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/1e6) }
