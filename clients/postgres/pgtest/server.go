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
	"testing"
	"time"

	"github.com/shirou/gopsutil/v4/process"

	"github.com/stitchfix/flotilla-os/clients/postgres"
)

// Server is a durable server of one test, which may kill it and start it again.
type Server struct {
	t       testing.TB // nil for the shared server
	config  postgres.ServerConfig
	server  *postgres.Server
	folders []string  // the home and the data folder
	warden  *exec.Cmd // ends the server with this process
	life    io.Closer // the pipe that the warden reads
}

// ServerOption configures NewServer.
type ServerOption func(settings map[string]string)

// Setting sets one setting of the server's configuration.
func Setting(name, value string) ServerOption {
	return func(settings map[string]string) { settings[name] = value }
}

// NewServer starts a server for this test alone, with PostgreSQL's own durable settings. It ends with the test.
func NewServer(t testing.TB, opts ...ServerOption) *Server {
	t.Helper()
	settings := map[string]string{}
	for _, opt := range opts {
		opt(settings)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := newServer(ctx, settings, "")
	if err != nil {
		t.Fatalf("pgtest: no server: %v", err)
	}
	s.t = t
	t.Cleanup(func() {
		if err := s.remove(); err != nil {
			t.Errorf("pgtest: ending the server: %v", err)
		}
	})
	return s
}

// URL returns the connection URL of a database of this server. It stays the same over Kill and Start.
func (s *Server) URL(name string) string { return s.server.DatabaseURL(name) }

// CreateDatabase creates an empty database and returns its URL.
func (s *Server) CreateDatabase(name string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := (&sharedServer{admin: open(s.t, s.URL("postgres"))}).create(ctx, name, "template0"); err != nil {
		s.t.Fatalf("pgtest: %v", err)
	}
	return s.URL(name)
}

// Kill ends the server as a crash of its machine does, every process at once by SIGKILL, and returns when all are gone.
func (s *Server) Kill() {
	s.t.Helper()
	if err := killAll(int32(s.server.PID())); err != nil {
		s.t.Fatalf("pgtest: killing the server: %v", err)
	}
	s.Stop()
}

// Stop shuts the server down in order. After Kill it does nothing.
func (s *Server) Stop() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.server.Stop(ctx); err != nil {
		s.t.Fatalf("pgtest: stopping the server: %v", err)
	}
}

// Start starts a killed or stopped server again, with the same data, port and password.
func (s *Server) Start() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.start(ctx); err != nil {
		s.t.Fatalf("pgtest: starting the server again: %v", err)
	}
}

// newServer starts a server. Its folders are made in parent, or where temporary files go if parent is empty.
func newServer(ctx context.Context, settings map[string]string, parent string) (*Server, error) {
	dir, err := os.MkdirTemp(parent, "flotilla-pgtest-")
	if err != nil {
		return nil, err
	}
	s := &Server{config: postgres.ServerConfig{
		DataDir:      dir,
		HomeParent:   parent,
		Settings:     settings,
		StartTimeout: patience,
		NoSync:       true, // a crash of the machine ends the test anyway
	}}
	home, err := postgres.HomeOf(s.config)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s.folders = []string{home, dir}
	if err := s.postWarden(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	server, err := postgres.Start(ctx, s.config)
	if err != nil {
		return err
	}
	s.server = server
	s.config.Port = server.Port() // the next start takes the same
	return nil
}

// remove ends the server hard, because its data is removed anyway, and removes its folders.
func (s *Server) remove() error {
	if s == nil {
		return nil
	}
	var errs []error
	if s.server != nil {
		atOnce, cancel := context.WithCancel(context.Background())
		cancel()
		if err := s.server.Stop(atOnce); !errors.Is(err, context.Canceled) {
			errs = append(errs, err)
		}
	}
	for _, folder := range s.folders {
		errs = append(errs, os.RemoveAll(folder))
	}
	// The server has ended, so the warden has nothing to do.
	errs = append(errs, s.warden.Process.Kill())
	_ = s.warden.Wait() // returns that it was killed
	return errors.Join(append(errs, s.life.Close())...)
}

// wardenScript ends the server and removes its folders when this process is gone, which it notices by a pipe whose other
// end only this process holds: a test process that is killed or timed out runs no code of its own any more.
//
// Its arguments are the cluster and the folders. The server's process id is read when it is needed, because a test may
// start its server again. Folders are removed again if there was none yet, because it or initdb may still write.
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
for pause in 0 1 5; do
	sleep $pause
	rm -rf "$@"
	[ -z "$pid" ] || break
done
rm -rf "$@"
`

func (s *Server) postWarden() error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	cluster := filepath.Join(s.folders[0], postgres.ClusterDir)
	s.life = write
	s.warden = exec.Command("/bin/sh", append([]string{"-c", wardenScript, "pgtest-warden", cluster}, s.folders...)...)
	s.warden.Dir = "/"
	s.warden.Stdin = read
	s.warden.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := errors.Join(s.warden.Start(), read.Close()); err != nil {
		return errors.Join(fmt.Errorf("starting the warden: %w", err), write.Close())
	}
	return nil
}

// killAll kills a process and its children, of which it can make no more once it is stopped, and waits for their end.
func killAll(pid int32) error {
	if err := syscall.Kill(int(pid), syscall.SIGSTOP); err != nil {
		return err
	}
	main, err := process.NewProcess(pid)
	if err != nil {
		return err
	}
	children, err := main.Children()
	if err != nil && !errors.Is(err, process.ErrorNoChildren) {
		return err
	}
	if err := main.Kill(); err != nil {
		return err
	}
	for _, child := range children {
		_ = child.Kill() // it may have ended
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for _, child := range children {
		for {
			// A process that has ended and is not yet reaped has the status of a zombie.
			if status, err := child.Status(); err != nil || len(status) == 0 || status[0] == process.Zombie {
				break
			}
			select {
			case <-tick.C:
			case <-deadline.C:
				return fmt.Errorf("process %d does not end", child.Pid)
			}
		}
	}
	return nil
}
