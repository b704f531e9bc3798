package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/stitchfix/flotilla-os/clients/postgres"
)

func newDemoCommand(t terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Watch a job run out of memory and Flotilla size the next one, then leave",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return demo(cmd.Context(), t) },
	}
}

// demo tells the story of Adaptive Resource Allocation with the real program:
// dev mode in a folder of its own, on a free port, with real processes under
// real memory limits. It fails unless everything that it tells has happened.
func demo(ctx context.Context, t terminal) error {
	dir, err := os.MkdirTemp("", "flotilla-demo-")
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		return err
	}
	story := demonstration{out: t.stdout, color: isTerminal(t.stdout)}
	story.say("Starting Flotilla in dev mode: a private Postgres, and jobs as processes of this machine.")

	err = withDevServer(ctx, devOptions{Listen: "127.0.0.1:0", DataDir: filepath.Join(dir, demoData)},
		terminal{environ: t.environ, stdout: io.Discard, stderr: log},
		func(ctx context.Context, server devServer) error { return story.tell(ctx, server, t.stdout) })
	err = errors.Join(err, log.Close())
	if err != nil {
		story.say("The server's log is " + log.Name())
		return err
	}
	return removeDemo(dir)
}

// removeDemo removes the demo's folder, and the database where it is elsewhere
// (root's is).
func removeDemo(dir string) error {
	home, err := postgres.HomeOf(postgres.ServerConfig{DataDir: filepath.Join(dir, demoData)})
	if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(home), os.RemoveAll(dir))
}

// demoData is the data folder within the demo's folder.
const demoData = "data"

// withDevServer calls use while a dev server runs, and ends the server.
func withDevServer(ctx context.Context, o devOptions, t terminal, use func(context.Context, devServer) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ready := make(chan devServer, 1)
	ended := make(chan error, 1)
	o.Ready = func(s devServer) { ready <- s }
	go func() { ended <- dev(ctx, o, t) }()

	select {
	case err := <-ended:
		if err == nil {
			err = ctx.Err()
		}
		return err
	case server := <-ready:
		err := use(ctx, server)
		cancel()
		return errors.Join(err, <-ended)
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// demoPatience bounds the wait for one run.
const demoPatience = 30 * time.Second
