// Command flotilla-os is the whole of Flotilla: the service, its development mode, and the commands of those who
// operate it.
package main

import (
	"os"

	"github.com/stitchfix/flotilla-os/cli"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim"
)

func main() {
	// A shim starts for each local run and must be quick: nothing of the service is set up for it.
	if len(os.Args) > 1 && os.Args[1] == shim.Command {
		os.Exit(shim.Run(os.Args[2:]))
	}
	os.Exit(cli.Run(os.Args[1:], cli.Terminal{Environ: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr}))
}
