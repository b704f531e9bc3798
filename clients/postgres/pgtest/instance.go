package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/stitchfix/flotilla-os/clients/postgres"
)

// instance is a private server with a folder of its own, which both go with this process.
type instance struct {
	config  postgres.ServerConfig
	server  *postgres.Server
	warden  *warden
	folders []string
}

type instanceConfig struct {
	settings map[string]string
	// parent is the folder to make the server's folders in; empty: those for temporary files.
	parent string
}

func newInstance(ctx context.Context, cfg instanceConfig) (*instance, error) {
	dir, err := os.MkdirTemp(cfg.parent, "flotilla-pgtest-")
	if err != nil {
		return nil, err
	}
	i := &instance{config: postgres.ServerConfig{
		DataDir:    dir,
		HomeParent: cfg.parent,
		Settings:   cfg.settings,
		NoSync:     true, // a crash of the machine ends the test anyway
	}}
	home, err := postgres.HomeOf(i.config)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	i.folders = []string{home, dir}
	if i.warden, err = postWarden(i.folders); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := i.start(ctx); err != nil {
		return nil, errors.Join(err, i.remove())
	}
	return i, nil
}

func (i *instance) start(ctx context.Context) error {
	server, err := postgres.Start(ctx, i.config)
	if err != nil {
		return err
	}
	i.server = server
	i.config.Port = server.Port() // the next start takes the same
	return nil
}

func (i *instance) url(name string) string { return i.server.DatabaseURL(name) }

// remove ends the server hard, since its data goes with it, and removes its folders.
func (i *instance) remove() error {
	if i == nil {
		return nil
	}
	var errs []error
	if i.server != nil {
		atOnce, cancel := context.WithCancel(context.Background())
		cancel()
		if err := i.server.Stop(atOnce); !errors.Is(err, context.Canceled) {
			errs = append(errs, err)
		}
	}
	for _, folder := range i.folders {
		errs = append(errs, os.RemoveAll(folder))
	}
	return errors.Join(append(errs, i.warden.dismiss())...)
}

// warden is a small process that ends the server and removes its folders when this process is gone. It learns of that
// by a pipe whose other end only this process holds, so it does not matter how it went: a killed or timed-out test
// runs no code of its own any more.
type warden struct {
	cmd  *exec.Cmd
	life io.Closer
}

// wardenScript gets the cluster and then the folders. The server's process id is read when it is needed, since a test may
// start its server anew. Folders are removed twice because a server or initdb in its first moments may still write.
const wardenScript = `
trap '' HUP INT TERM QUIT
while read -r _; do :; done
cluster=$1; shift
pid=$(head -n 1 "$cluster/postmaster.pid" 2>/dev/null)
ours() {
	[ -n "$pid" ] || return 1
	case $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null || ps -p "$pid" -o args=) in
	*"$cluster"*) return 0 ;;
	esac
	return 1
}
ours && kill -QUIT "$pid"
for _ in 1 2 3 4 5 6 7 8 9 10; do ours || break; sleep 0.2; done
ours && kill -KILL "$pid"
rm -rf "$@"
[ -n "$pid" ] || sleep 1
rm -rf "$@"
`

func postWarden(folders []string) (*warden, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cluster := filepath.Join(folders[0], postgres.ClusterDir)
	cmd := exec.Command("/bin/sh", append([]string{"-c", wardenScript, "pgtest-warden", cluster}, folders...)...)
	cmd.Dir = "/"
	cmd.Stdin = read
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := errors.Join(cmd.Start(), read.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the warden: %w", err), write.Close())
	}
	return &warden{cmd: cmd, life: write}, nil
}

// dismiss ends the warden after the server has ended. It has nothing to do but to find the folders gone.
func (w *warden) dismiss() error {
	err := w.cmd.Process.Kill()
	_ = w.cmd.Wait() // says that it was killed
	return errors.Join(err, w.life.Close())
}
