// Package postgres runs a private PostgreSQL server for installations that have no database of their own: dev mode,
// and (through its sub-package pgtest) the tests.
//
// It finds the server binaries, makes a cluster in Flotilla's data folder, starts it on a loopback port, notices when
// it dies and stops it. What is inside the database belongs to package state.
package postgres

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	_ "github.com/lib/pq" // the driver that creates the database
)

// defaultStartTimeout leaves a server time to recover from a crash.
const defaultStartTimeout = time.Minute

// The names of the one role and the one database of a private server.
const (
	superuser = "flotilla"
	database  = "flotilla"
)

// ServerConfig configures a private server.
type ServerConfig struct {
	// DataDir is Flotilla's data folder. It is created if it is missing.
	DataDir string
	Logger  *slog.Logger
	// Search lists where to look for the server binaries.
	Search Search
	// HomeParent is the folder that a database of root is made in, outside DataDir; empty: /var/tmp. Every user must be
	// able to pass through it. It has no effect on a database that exists.
	HomeParent string
	// Port is the loopback port to listen on; 0: a free one. An adopted server keeps the port it has.
	Port int
	// Settings are added to the server's configuration for this start.
	Settings map[string]string
	// StartTimeout is how long the server may take until it accepts connections; 0: one minute.
	StartTimeout time.Duration
	// NoSync makes the creation of the database fast and unsafe against a loss of power, for tests.
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

	following sync.WaitGroup // of the goroutines of follow
	released  chan struct{}  // closed by release
	locks     []*os.File
	stopOnce  sync.Once
	stopErr   error
}

// Start brings up the private server of a data folder and returns when it accepts connections; ctx is for the start
// only. The first start creates the database, later ones keep its data, and a server left behind by a crash is adopted.
// Errors for the user at the terminal, each of one line: ErrNoServerBinaries, ErrDataDirInUse, ErrVersionMismatch.
func Start(ctx context.Context, cfg ServerConfig) (*Server, error) {
	if cfg.DataDir == "" {
		return nil, errors.New("a private PostgreSQL server needs a data folder")
	}
	cfg.StartTimeout = cmp.Or(cfg.StartTimeout, defaultStartTimeout)
	s := &Server{cfg: cfg, log: cfg.Logger, released: make(chan struct{})}
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
		if err := s.layout.initialize(ctx, binaries, s.password, s.cfg.NoSync); err != nil {
			return err
		}
	}
	if s.adopted, err = s.adopt(ctx); err != nil {
		return err
	}
	for attempt := 0; !s.adopted; attempt++ {
		err := s.launch(ctx, binaries)
		if err == nil {
			break
		}
		if attempt == portAttempts || s.cfg.Port != 0 || !errors.Is(err, errPortTaken) {
			return err
		}
	}
	s.log.Info("private postgres is ready", "port", s.port, "pid", s.main.pid, "adopted", s.adopted, "folder", s.layout.home)
	return nil
}

// takeFolders finds the home of the database, and locks the data folder and the home against another Flotilla. The
// lock on the home matters if it is outside the data folder: a copied data folder names the same home. It also makes
// systemd-tmpfiles leave a home below /var/tmp alone.
func (s *Server) takeFolders() error {
	dataDir, err := realFolder(s.cfg.DataDir)
	if err != nil {
		return err
	}
	held, err := lock(filepath.Join(dataDir, lockFile), os.O_RDWR|os.O_CREATE, dataDir)
	if err != nil {
		return err
	}
	s.locks = append(s.locks, held)
	// The process id is for the message of a refused start; the lock does not depend on it.
	if err := held.Truncate(0); err == nil {
		_, _ = held.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if s.layout, err = newLayout(dataDir, s.cfg); err != nil {
		return err
	}
	if held, err = lock(s.layout.home, os.O_RDONLY, dataDir); err != nil {
		return err
	}
	s.locks = append(s.locks, held)
	if s.layout.owner != nil {
		s.log.Info("root cannot run postgres, so an unprivileged user does, in a folder of its own",
			"user", s.layout.owner.name, "folder", s.layout.home)
	}
	return nil
}

// ensureDatabase creates Flotilla's database in a new cluster.
func (s *Server) ensureDatabase(ctx context.Context) error {
	db, err := sql.Open("postgres", s.DatabaseURL("postgres"))
	if err != nil {
		return err
	}
	var exists bool
	err = db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)`, database).Scan(&exists)
	if err == nil && !exists {
		_, err = db.ExecContext(ctx, `CREATE DATABASE `+database)
	}
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("creating the database %s: %w", database, err)
	}
	return nil
}

// URL returns the connection URL of Flotilla's database. It holds the password.
func (s *Server) URL() string { return s.DatabaseURL(database) }

// DatabaseURL returns the connection URL of a database of this server. It holds the password.
func (s *Server) DatabaseURL(name string) string { return addressOf(s.port, s.password, name) }

func addressOf(port int, password, name string) string {
	return (&url.URL{
		Scheme:   "postgres",
		User:     url.UserPassword(superuser, password),
		Host:     net.JoinHostPort(loopback, strconv.Itoa(port)),
		Path:     "/" + name,
		RawQuery: "sslmode=disable",
	}).String()
}

// RunningURL returns the URL, password included, of the database that a program now serves from a data folder. It starts
// nothing and locks nothing: it is for commands that look at the database beside that program.
func RunningURL(dataDir string) (string, error) {
	home, err := HomeOf(ServerConfig{DataDir: dataDir})
	if err != nil {
		return "", err
	}
	l := layout{dataDir: dataDir, home: home}
	pid, port, _ := l.postmasterFile()
	if port == 0 || !l.runs(pid) {
		return "", fmt.Errorf("no database is running in %s: start flotilla-os dev there first", dataDir)
	}
	password, err := l.readPassword(true)
	if err != nil {
		return "", err
	}
	return addressOf(port, password, database), nil
}

// PID returns the process id of the server's main process.
func (s *Server) PID() int { return s.main.pid }

// Port returns the loopback port that the server listens on.
func (s *Server) Port() int { return s.port }

// Home returns the folder that holds the cluster and the server's log.
func (s *Server) Home() string { return s.layout.home }

// Adopted reports whether the server was left running by a process that crashed.
func (s *Server) Adopted() bool { return s.adopted }

// Done returns a channel that is closed when the server has ended, by Stop or otherwise.
func (s *Server) Done() <-chan struct{} { return s.main.done }

// Err returns nil while the server runs and after Stop, and an error that wraps ErrServerDied if the server ended
// otherwise.
func (s *Server) Err() error {
	if !s.main.ended() {
		return nil
	}
	return s.main.err
}

// Stop shuts the server down (sessions are cut off, transactions rolled back) and returns when it is gone and the folder
// is free. If ctx ends first, the server is cut off hard, loses nothing that was committed, and Stop returns an error.
// It may be called more than once.
func (s *Server) Stop(ctx context.Context) error {
	s.stopOnce.Do(func() {
		s.stopErr = errors.Join(s.main.end(ctx), s.release())
		s.log.Info("private postgres has stopped", "pid", s.main.pid)
	})
	return s.stopErr
}

// release ends the goroutines of s and unlocks its folders. It leaves an adopted server running.
func (s *Server) release() error {
	close(s.released)
	s.following.Wait()
	var errs []error
	for _, held := range s.locks {
		errs = append(errs, held.Close())
	}
	return errors.Join(errs...)
}
