// Command flotilla-os is the whole of Flotilla: the service, its development
// mode, and the commands of those who operate it. The parts are wired together
// here, and only here (program.go).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/stitchfix/flotilla-os/execution/engine/local"
)

func main() {
	// A shim is started for each local run and must be quick: nothing of the
	// service is set up for it.
	if len(os.Args) > 1 && os.Args[1] == local.ShimCommand {
		os.Exit(local.RunShim(os.Args[2:]))
	}
	os.Exit(run(os.Args[1:], terminal{os.Environ(), os.Stdout, os.Stderr}))
}

// terminal is what a command has of the outside.
type terminal struct {
	environ        []string
	stdout, stderr io.Writer
}

// errSilent ends the program with status 1 and no further line: what was wrong
// has been shown.
var errSilent = errors.New("already shown")

// run executes one command line and answers the exit status. SIGINT and
// SIGTERM end the command's context; a second one ends the program at once.
func run(args []string, t terminal) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	root := newRootCommand(t)
	root.SetArgs(args)
	root.SetOut(t.stdout)
	root.SetErr(t.stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case !errors.Is(err, errSilent):
		fmt.Fprintln(t.stderr, "flotilla-os:", err)
	}
	return 1
}

func newRootCommand(t terminal) *cobra.Command {
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
	root.AddCommand(newServeCommand(t), newDevCommand(t), newDemoCommand(t), newMigrateCommand(t), newARACommand(t))
	return root
}
