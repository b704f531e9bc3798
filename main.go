// Command flotilla-os is the whole of Flotilla: the service, its development mode, and the commands of those who
// operate it.
package main

import (
	"os"

	"github.com/stitchfix/flotilla-os/cli"
	"github.com/stitchfix/flotilla-os/execution/engine/local"
)

func main() {
	// A shim is started for each local run and must be quick: nothing of the service is set up for it.
	if len(os.Args) > 1 && os.Args[1] == local.ShimCommand {
		os.Exit(local.RunShim(os.Args[2:]))
	}
	os.Exit(cli.Run(os.Args[1:], cli.Terminal{Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr}))
}
