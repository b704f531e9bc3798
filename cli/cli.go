// Package cli is the command line of flotilla-os: one file for each verb. A verb reads flags and configuration, calls
// the package that does the work, and prints. Package server wires together what serve and dev run.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/stitchfix/flotilla-os/config"
)

// Terminal is the environment and the output of a command. Environ holds NAME=value pairs, as os.Environ returns them.
type Terminal struct {
	Environ        []string
	Stdout, Stderr io.Writer
}

// errSilent makes the program exit with status 1 without a further line: the command has printed what is wrong.
var errSilent = errors.New("already printed")

// Run executes one command line and returns the exit status. SIGINT and SIGTERM cancel the command's context; a second
// one ends the program at once.
func Run(args []string, t Terminal) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root := newRootCommand(t)
	root.SetArgs(args)
	root.SetOut(t.Stdout)
	root.SetErr(t.Stderr)
	err := root.ExecuteContext(ctx)
	if err != nil && !errors.Is(err, errSilent) {
		fmt.Fprintln(t.Stderr, "flotilla-os:", err)
	}
	if err != nil {
		return 1
	}
	return 0
}

func newRootCommand(t Terminal) *cobra.Command {
	root := &cobra.Command{
		Use:   "flotilla-os [config folder]",
		Short: "Flotilla runs containerised batch jobs",
		Long: "Flotilla runs containerised batch jobs and learns how much memory they need.\n" +
			"A config folder alone means \"serve\" with it. To try it on this machine: flotilla-os dev",
		Args:          cobra.MaximumNArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			if info, err := os.Stat(args[0]); err != nil || !info.IsDir() {
				return fmt.Errorf("%q is neither a command nor a config folder; see flotilla-os --help", args[0])
			}
			return serve(cmd.Context(), args, t)
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newServeCommand(t), newDevCommand(t), newDemoCommand(t), newMigrateCommand(t), newARACommand(t), newCheckCommand(t))
	return root
}

// defaultConfigDir is the folder of the configuration if the command line names none.
const defaultConfigDir = "conf"

// readConfig reads the configuration of the folder in args. It fails if the configuration names no database.
func readConfig(args []string, environ []string) (config.Config, []config.Warning, error) {
	dir := defaultConfigDir
	if len(args) > 0 {
		dir = args[0]
	}
	cfg, warnings, err := config.Load(dir, environ)
	if err == nil {
		err = cfg.RequireDatabase()
	}
	return cfg, warnings, err
}

// newLogger returns a logger for lines of at least level: JSON, or text on a terminal. It logs the warnings of the
// configuration first. Kubernetes' client library logs through it too.
func newLogger(w io.Writer, level string, warnings []config.Warning) *slog.Logger {
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
	for _, warning := range warnings {
		logger.Warn("configuration key without effect", "key", warning.Key, "detail", fmt.Sprint(warning))
	}
	return logger
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}
