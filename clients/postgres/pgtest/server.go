package pgtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/shirou/gopsutil/v4/process"
)

// Server is a durable server of one test, which it may kill and start again.
type Server struct {
	t        testing.TB
	instance *instance
}

// ServerOption changes what NewServer gives.
type ServerOption func(*instanceConfig)

// Setting sets one setting of the server's configuration.
func Setting(name, value string) ServerOption {
	return func(cfg *instanceConfig) { cfg.settings[name] = value }
}

// NewServer starts a server for this test alone, with PostgreSQL's own durable settings. It ends with the test.
func NewServer(t testing.TB, opts ...ServerOption) *Server {
	t.Helper()
	cfg := instanceConfig{settings: map[string]string{}}
	for _, opt := range opts {
		opt(&cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	made, err := newInstance(ctx, cfg)
	if err != nil {
		t.Fatalf("pgtest: no server: %v", err)
	}
	t.Cleanup(func() {
		if err := made.remove(); err != nil {
			t.Errorf("pgtest: ending the server: %v", err)
		}
	})
	return &Server{t: t, instance: made}
}

// URL is the connection URL of a database of this server. It stays the same over Kill and Start.
func (s *Server) URL(name string) string { return s.instance.url(name) }

// CreateDatabase makes an empty database and returns its URL.
func (s *Server) CreateDatabase(name string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	admin, err := sql.Open("postgres", s.URL("postgres"))
	if err == nil {
		err = (&sharedServer{admin: admin}).create(ctx, name, "template0")
		err = errors.Join(err, admin.Close())
	}
	if err != nil {
		s.t.Fatalf("pgtest: %v", err)
	}
	return s.URL(name)
}

// Kill ends the server as a crash of its machine does: every process at once by SIGKILL. It returns when all are gone.
func (s *Server) Kill() {
	s.t.Helper()
	if err := killAll(int32(s.instance.server.PID())); err != nil {
		s.t.Fatalf("pgtest: killing the server: %v", err)
	}
	s.Stop()
}

// Stop shuts the server down in order. After Kill it has nothing to do.
func (s *Server) Stop() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.instance.server.Stop(ctx); err != nil {
		s.t.Fatalf("pgtest: stopping the server: %v", err)
	}
}

// Start brings a killed or stopped server back, with the same data, port and password.
func (s *Server) Start() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.instance.start(ctx); err != nil {
		s.t.Fatalf("pgtest: starting the server again: %v", err)
	}
}

// killAll kills a process and its children, of which it can make no more once it is stopped.
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
		_ = child.Kill() // it may have ended by itself
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for _, child := range children {
		for lives(child.Pid) {
			select {
			case <-tick.C:
			case <-deadline.C:
				return fmt.Errorf("process %d does not end", child.Pid)
			}
		}
	}
	return nil
}

// lives reports whether a process still runs. One that has ended and is not yet reaped does not.
func lives(pid int32) bool {
	found, err := process.NewProcess(pid)
	if err != nil {
		return false
	}
	status, err := found.Status()
	return err == nil && len(status) > 0 && status[0] != process.Zombie
}
