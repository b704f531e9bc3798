package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strconv"
	"time"

	_ "github.com/lib/pq" // the driver that readiness is asked through
)

const (
	loopback      = "127.0.0.1"
	readyInterval = 20 * time.Millisecond
	probeTimeout  = 2 * time.Second
	portAttempts  = 5
)

// Ports are taken from below the range that systems give to outgoing connections (32768 and up on Linux), so that a
// server which is down for a moment finds its port free when it comes back.
const (
	firstPort = 15000
	lastPort  = 29999
)

// errPortTaken says that somebody took the port between our choice and the server's start.
var errPortTaken = errors.New("port taken")

// run adopts the server that a crashed Flotilla left running, or else starts one.
func (s *Server) run(ctx context.Context, binaries Binaries) error {
	adopted, err := s.adopt(ctx)
	if err != nil || adopted {
		return err
	}
	for range portAttempts {
		err = s.launchOn(ctx, binaries)
		if s.cfg.Port != 0 || !errors.Is(err, errPortTaken) {
			return err
		}
	}
	return err
}

// adopt takes over a running server of this cluster, if there is one.
func (s *Server) adopt(ctx context.Context) (bool, error) {
	said, ok := readPidFile(s.layout)
	if !ok {
		return false, nil
	}
	if !runs(s.layout, said.pid) {
		if _, err := commandLine(said.pid); err == nil {
			return false, disown(s.layout)
		}
		return false, nil // PostgreSQL itself clears away the file of a dead process
	}
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.main, s.unwatch = watch(watching, s.layout, said.pid), cancel
	err := s.awaitReady(ctx, func() int {
		said, _ := readPidFile(s.layout)
		return said.port
	})
	switch {
	case err == nil:
		s.adopted = true
		return true, s.ensureDatabase(ctx)
	case s.main.ended(): // it was shutting down: a new one follows
		cancel()
		s.main, s.unwatch = nil, func() {}
		return false, nil
	default:
		cancel()
		<-s.main.done
		return false, fmt.Errorf("the PostgreSQL server left running (process %d) does not answer: %w", said.pid, err)
	}
}

// launchOn starts a server on the configured port or a free one.
func (s *Server) launchOn(ctx context.Context, binaries Binaries) error {
	s.port = s.cfg.Port
	if s.port == 0 {
		free, err := freePort()
		if err != nil {
			return err
		}
		s.port = free
	}
	logged := s.layout.logSize()
	main, err := launch(s.layout, binaries, s.args())
	if err != nil {
		return err
	}
	s.main = main
	if err = s.awaitReady(ctx, func() int { return s.port }); err == nil {
		err = s.ensureDatabase(ctx)
	}
	if err == nil {
		return nil
	}
	if main.ended() {
		if !portIsFree(s.port) {
			return fmt.Errorf("%w: %d is used by another program", errPortTaken, s.port)
		}
		return fmt.Errorf("PostgreSQL did not start: %s (its log is %s)", s.layout.complaint(logged), s.layout.logPath())
	}
	giveUp, cancel := context.WithCancel(ctx)
	cancel() // there is nothing in it yet that a slow shutdown would save
	_ = main.end(giveUp)
	return err
}

// args are the settings of every server of ours: reachable by TCP on loopback alone, with no socket file anywhere, its
// log to the file we opened.
func (s *Server) args() []string {
	settings := map[string]string{
		"listen_addresses":        loopback,
		"port":                    strconv.Itoa(s.port),
		"unix_socket_directories": "",
		"logging_collector":       "off",
		"log_destination":         "stderr",
		"cluster_name":            superuser,
	}
	for name, value := range s.cfg.Settings {
		settings[name] = value
	}
	var args []string
	for name, value := range settings {
		args = append(args, "--"+name+"="+value)
	}
	slices.Sort(args)
	return args
}

// awaitReady returns when the server answers on the port that it says to have and is the server of this cluster.
func (s *Server) awaitReady(ctx context.Context, port func() int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.StartTimeout,
		fmt.Errorf("no connection within %s (see %s)", s.cfg.StartTimeout, s.layout.logPath()))
	defer cancel()
	tick := time.NewTicker(readyInterval)
	defer tick.Stop()
	for {
		if s.port = port(); s.port != 0 && s.answers(ctx) {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.main.done:
			return ErrServerDied
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// answers asks the server which cluster it serves: another program may be listening there.
func (s *Server) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var serves string
	err := s.maintain(func(db *sql.DB) error {
		return db.QueryRowContext(ctx, `SHOW data_directory`).Scan(&serves)
	})
	return err == nil && serves == s.layout.cluster()
}

// ensureDatabase creates Flotilla's database in a new cluster.
func (s *Server) ensureDatabase(ctx context.Context) error {
	err := s.maintain(func(db *sql.DB) error {
		var exists bool
		err := db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)`, database).Scan(&exists)
		if err != nil || exists {
			return err
		}
		_, err = db.ExecContext(ctx, `CREATE DATABASE `+database)
		return err
	})
	if err != nil {
		return fmt.Errorf("creating the database %s: %w", database, err)
	}
	return nil
}

// maintain runs fn with a connection to the database that every cluster has. A program that takes the connection and
// says nothing does not hold us up: the driver heeds no context while it connects.
func (s *Server) maintain(fn func(*sql.DB) error) error {
	timeout := fmt.Sprintf("&connect_timeout=%d", int(probeTimeout.Seconds()))
	db, err := sql.Open("postgres", s.DatabaseURL("postgres")+timeout)
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	return errors.Join(fn(db), db.Close())
}

// DatabaseURL is the connection URL of a database of this server. It holds the password.
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

func freePort() (int, error) {
	for range 100 {
		if port := firstPort + rand.IntN(lastPort-firstPort+1); portIsFree(port) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port between %d and %d on %s", firstPort, lastPort, loopback)
}

func portIsFree(port int) bool {
	listener, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(port))) //nolint:noctx // a loopback port is there or not, at once
	if err != nil {
		return false
	}
	return listener.Close() == nil
}
