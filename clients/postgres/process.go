package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/shirou/gopsutil/v4/process"
)

// ErrServerDied is wrapped by the error of a server that ended although Stop was not called.
var ErrServerDied = errors.New("the private PostgreSQL server died")

// errPortTaken means that another program took the port between our choice and the server's start.
var errPortTaken = errors.New("port taken")

const (
	loopback      = "127.0.0.1"
	portAttempts  = 5
	readyInterval = 20 * time.Millisecond
	// adoptedInterval is how often a server that is not our child is looked at.
	adoptedInterval = 200 * time.Millisecond
	// stopPatience is how long a program that was signalled to end at once may take before it is killed.
	stopPatience = 5 * time.Second
)

// Ports are below the range that systems give to outgoing connections (32768 and up on Linux), so that a server which is
// down for a moment finds its port free when it comes back.
const (
	firstPort = 15000
	lastPort  = 29999
)

// postmaster is the running main process of a server: our child, or one adopted from a Flotilla that crashed.
type postmaster struct {
	pid   int
	asked atomic.Bool // Stop was called
	done  chan struct{}
	err   error // why it ended; read after done
}

// follow sets the server's main process and waits for its end in the background, until release.
func (s *Server) follow(pid int, wait func() error) {
	p := &postmaster{pid: pid, done: make(chan struct{})}
	s.main = p
	s.following.Go(func() {
		defer close(p.done)
		if cause := wait(); !p.asked.Load() {
			p.err = ErrServerDied
			if cause != nil {
				p.err = fmt.Errorf("%w: %w", ErrServerDied, cause)
			}
		}
	})
}

func (p *postmaster) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// end shuts the server down and returns when it is gone. Sessions are cut off and open transactions rolled back
// (PostgreSQL's fast shutdown). If ctx ends first, the shutdown becomes an immediate one, and at last a kill.
func (p *postmaster) end(ctx context.Context) error {
	p.asked.Store(true)
	signal := func(sig syscall.Signal) {
		if !p.ended() {
			_ = syscall.Kill(p.pid, sig) // fails only if the process has ended, which done reports too
		}
	}
	signal(syscall.SIGINT)
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	}
	signal(syscall.SIGQUIT)
	patience := time.NewTimer(stopPatience)
	defer patience.Stop()
	select {
	case <-p.done:
	case <-patience.C:
		signal(syscall.SIGKILL)
		<-p.done
	}
	return fmt.Errorf("PostgreSQL was cut off instead of shut down: %w", ctx.Err())
}

// adopt takes over a running server of this cluster. It reports false if there is none.
func (s *Server) adopt(ctx context.Context) (bool, error) {
	pid, _, _ := s.layout.postmasterFile()
	if pid == 0 {
		return false, nil
	}
	if !s.layout.runs(pid) {
		return false, s.layout.disown()
	}
	s.follow(pid, func() error {
		tick := time.NewTicker(adoptedInterval)
		defer tick.Stop()
		for s.layout.runs(pid) {
			select {
			case <-tick.C:
			case <-s.released:
				return nil
			}
		}
		return nil
	})
	err := s.awaitReady(ctx)
	switch {
	case err == nil:
		return true, nil
	case s.main.ended(): // it was shutting down: a new one follows
		return false, nil
	}
	return false, fmt.Errorf("the PostgreSQL server left running (process %d) does not accept connections: %w", pid, err)
}

// launch starts a server on the configured port, or on a free one, which another program may take before the server
// does. It is our child in a session of its own: Ctrl-C at the terminal and its hangup are for us, and it ends after us.
func (s *Server) launch(ctx context.Context, binaries Binaries) error {
	port := s.cfg.Port
	for tried := 0; port == 0 || s.cfg.Port == 0 && tried < 100 && !portIsFree(port); tried++ {
		port = firstPort + rand.IntN(lastPort-firstPort+1)
	}
	log, logged, err := s.layout.openLog()
	if err != nil {
		return err
	}
	// The server is reachable by TCP on loopback alone, without a socket file anywhere, and logs to the file we opened.
	args := []string{"-D", s.layout.cluster(), "--listen_addresses=" + loopback, "--port=" + strconv.Itoa(port),
		"--unix_socket_directories=", "--logging_collector=off", "--log_destination=stderr", "--cluster_name=" + superuser}
	for name, value := range s.cfg.Settings {
		args = append(args, "--"+name+"="+value)
	}
	cmd := exec.Command(binaries.postgres(), args...) //nolint:noctx // Stop ends the server and gives it time to finish its writes.
	s.layout.prepare(cmd)
	cmd.SysProcAttr.Setsid = true
	cmd.Stdout, cmd.Stderr = log, log
	if err := errors.Join(cmd.Start(), log.Close()); err != nil {
		return fmt.Errorf("starting PostgreSQL: %w", err)
	}
	s.follow(cmd.Process.Pid, cmd.Wait)
	err = s.awaitReady(ctx)
	switch {
	case err == nil:
		return nil
	case s.main.ended() && !portIsFree(port):
		return fmt.Errorf("%w: %d is used by another program", errPortTaken, port)
	case s.main.ended():
		return fmt.Errorf("PostgreSQL did not start: %s (its log is %s)", s.layout.complaint(logged), s.layout.logPath())
	}
	atOnce, cancel := context.WithCancel(ctx)
	cancel() // there is nothing in it yet that a slow shutdown would save
	_ = s.main.end(atOnce)
	return err
}

func portIsFree(port int) bool {
	listener, err := net.Listen("tcp", net.JoinHostPort(loopback, strconv.Itoa(port))) //nolint:noctx // Takes no time on loopback.
	return err == nil && listener.Close() == nil
}

// awaitReady returns when the postmaster.pid of the server's main process has its port and the status ready, and the
// server has Flotilla's database.
func (s *Server) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.StartTimeout,
		fmt.Errorf("no connection within %s (see %s)", s.cfg.StartTimeout, s.layout.logPath()))
	defer cancel()
	tick := time.NewTicker(readyInterval)
	defer tick.Stop()
	for {
		pid, port, ready := s.layout.postmasterFile()
		if pid == s.main.pid && ready {
			s.port = port
			return s.ensureDatabase(ctx)
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

// postmasterPID is the file that a running server keeps in its cluster. Its lines are process id, data directory, start
// time, port, socket folder, address, shared memory and, since PostgreSQL 10, status.
const postmasterPID = "postmaster.pid"

// postmasterFile returns the content of the cluster's postmaster.pid. The pid is 0 if there is no such file, or if it is
// still empty.
func (l layout) postmasterFile() (pid, port int, ready bool) {
	held, err := os.ReadFile(filepath.Join(l.cluster(), postmasterPID))
	lines := strings.Split(string(held), "\n")
	if pid, _ = strconv.Atoi(strings.TrimSpace(lines[0])); err != nil || pid <= 1 {
		return 0, 0, false
	}
	if len(lines) > 7 {
		port, _ = strconv.Atoi(strings.TrimSpace(lines[3]))
		ready = strings.TrimSpace(lines[7]) == "ready"
	}
	return pid, port, ready
}

// runs reports whether pid is a living PostgreSQL server of this very cluster. Process ids are used again, so the id
// alone proves nothing. A zombie has no command line and counts as dead.
func (l layout) runs(pid int) bool {
	found, err := process.NewProcess(int32(pid)) //nolint:gosec // Process ids are below 2^22.
	if err != nil {
		return false
	}
	args, err := found.CmdlineSlice()
	if err != nil || len(args) == 0 || filepath.Base(args[0]) != "postgres" {
		return false
	}
	at := slices.Index(args, "-D")
	return at > 0 && at+1 < len(args) && args[at+1] == l.cluster()
}

// disown replaces the process id in the postmaster.pid of a dead server, because another process may have it by now:
// PostgreSQL would take that process for a server and refuse to start, and awaitReady would take the file for that of a
// new server with the same id. The file is not removed, because it also lets PostgreSQL see whether sessions of the dead
// server still use the cluster's shared memory. The new id is ours, which PostgreSQL does not take for a server because
// it is that of its parent.
func (l layout) disown() error {
	cluster, err := os.OpenRoot(l.cluster()) // OpenRoot follows no link out of a folder that may be another user's
	if err != nil {
		return fmt.Errorf("opening the database folder: %w", err)
	}
	held, err := cluster.ReadFile(postmasterPID)
	if err == nil {
		_, rest, _ := strings.Cut(string(held), "\n")
		err = cluster.WriteFile(postmasterPID, []byte(strconv.Itoa(os.Getpid())+"\n"+rest), 0o600)
	}
	if err := errors.Join(err, cluster.Close()); err != nil {
		return fmt.Errorf("correcting %s: %w", postmasterPID, err)
	}
	return nil
}
