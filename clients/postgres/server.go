package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// defaultStartTimeout leaves a server time to recover from a crash.
const defaultStartTimeout = time.Minute

// ServerConfig configures a private server.
type ServerConfig struct {
	// DataDir is Flotilla's data folder; it is created where missing.
	DataDir string
	Logger  *slog.Logger
	// Search says where the server binaries are.
	Search Search
	// Owner is the system user who runs the server when this process is root; empty: postgres, else nobody.
	Owner string
	// HomeParent is the folder that a database of root is made in, outside DataDir; empty: /var/tmp. Every user must be
	// able to pass through it. It has no effect on a database that exists.
	HomeParent string
	// Port is the loopback port to listen on; 0: a free one. An adopted server keeps the port it has.
	Port int
	// Settings are added to the server's configuration for this start.
	Settings map[string]string
	// StartTimeout is how long the server may take until it accepts connections; 0: one minute.
	StartTimeout time.Duration
	// NoSync makes the creation of the database quick and unsafe against a loss of power: for tests.
	NoSync bool
}

// Server is a private PostgreSQL server that this process owns.
type Server struct {
	cfg      ServerConfig
	layout   layout
	log      *slog.Logger
	password string
	port     int
	adopted  bool
	main     *postmaster

	unwatch  context.CancelFunc
	locks    []*os.File
	stopOnce sync.Once
	stopErr  error
}

// Start brings up the private server of a data folder and returns when it accepts connections; ctx is for the start
// only. The first start creates the database, later ones keep its data, and a server left behind by a crash is adopted.
// Errors for the person at the terminal, each of one line: ErrNoServerBinaries, ErrDataDirInUse, ErrVersionMismatch.
func Start(ctx context.Context, cfg ServerConfig) (*Server, error) {
	if cfg.DataDir == "" {
		return nil, errors.New("a private PostgreSQL server needs a data folder")
	}
	cfg.StartTimeout = cmp.Or(cfg.StartTimeout, defaultStartTimeout)
	s := &Server{cfg: cfg, log: cfg.Logger, unwatch: func() {}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.release())
	}
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	installed, err := FindBinaries(ctx, s.cfg.Search)
	if err != nil {
		return err
	}
	if err := s.takeFolders(); err != nil {
		return err
	}
	major, err := s.layout.clusterMajor()
	if err != nil {
		return err
	}
	binaries, err := s.layout.binariesFor(installed, major)
	if err != nil {
		return err
	}
	if s.password, err = s.layout.readPassword(major != 0); err != nil {
		return err
	}
	if major == 0 {
		s.log.Info("creating a private postgres database", "folder", s.layout.home, "version", binaries.Major)
		init := initConfig{binaries: binaries, password: s.password, noSync: s.cfg.NoSync}
		if err := s.layout.initialize(ctx, init); err != nil {
			return err
		}
	}
	if err := s.run(ctx, binaries); err != nil {
		return err
	}
	s.log.Info("private postgres is ready", "port", s.port, "pid", s.main.pid, "adopted", s.adopted, "folder", s.layout.home)
	return nil
}

// takeFolders resolves where the database is and makes sure that no other Flotilla uses it.
func (s *Server) takeFolders() error {
	dataDir, err := realFolder(s.cfg.DataDir)
	if err != nil {
		return err
	}
	lock, err := lockDataDir(dataDir)
	if err != nil {
		return err
	}
	s.locks = append(s.locks, lock)
	if s.layout, err = newLayout(dataDir, s.cfg); err != nil {
		return err
	}
	if lock, err = lockHome(s.layout.home, dataDir); err != nil {
		return err
	}
	s.locks = append(s.locks, lock)
	if s.layout.owner != nil {
		s.log.Info("root cannot run postgres, so an unprivileged user does, in a folder of its own",
			"user", s.layout.owner.name, "folder", s.layout.home)
	}
	return nil
}

// realFolder creates a folder where missing and names it the same way however it was reached.
func realFolder(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("creating the data folder: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return "", fmt.Errorf("resolving the data folder: %w", err)
	}
	return dir, nil
}

// URL is the connection URL of Flotilla's database. It holds the password.
func (s *Server) URL() string { return s.DatabaseURL(database) }

// PID is the process id of the server's main process.
func (s *Server) PID() int { return s.main.pid }

// Port is the loopback port that the server listens on.
func (s *Server) Port() int { return s.port }

// Home is the folder that holds the cluster and the server's log.
func (s *Server) Home() string { return s.layout.home }

// Adopted reports whether the server was left running by a process that crashed.
func (s *Server) Adopted() bool { return s.adopted }

// Done is closed when the server has ended, asked or not.
func (s *Server) Done() <-chan struct{} { return s.main.done }

// Err is nil while the server runs and after Stop, and wraps ErrServerDied when it ended by itself.
func (s *Server) Err() error {
	if !s.main.ended() {
		return nil
	}
	return s.main.err
}

// Stop shuts the server down (fast: sessions are cut off, transactions rolled back) and returns when it is gone and
// the folder is free. When ctx ends first, the server is cut off hard, loses nothing that was committed, and the error
// says so. It may be called more than once.
func (s *Server) Stop(ctx context.Context) error {
	s.stopOnce.Do(func() {
		s.stopErr = errors.Join(s.main.end(ctx), s.release())
		s.log.Info("private postgres has stopped", "pid", s.main.pid)
	})
	return s.stopErr
}

func (s *Server) release() error {
	s.unwatch()
	var errs []error
	for _, lock := range s.locks {
		errs = append(errs, lock.Close())
	}
	s.locks = nil
	return errors.Join(errs...)
}
