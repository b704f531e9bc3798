package postgres

import (
	"context"
	"errors"
	"fmt"
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

// ErrServerDied says that the server ended without being asked to.
var ErrServerDied = errors.New("the private PostgreSQL server died")

// postmasterFile is written by a running server into its cluster. Its lines are process id, data directory, start
// time, port, … (PostgreSQL documentation, "Database File Layout").
const postmasterFile = "postmaster.pid"

// adoptedInterval is how often a server that is not our child is looked at.
const adoptedInterval = 200 * time.Millisecond

// postmaster is the running main process of a server: our child, or one adopted from a Flotilla that crashed.
type postmaster struct {
	pid   int
	asked atomic.Bool // to end
	done  chan struct{}
	err   error // why it ended; read after done
}

// launch starts a server as our child, in a session of its own: Ctrl-C at the terminal and its hangup are for us, and
// the server ends after us.
func launch(l layout, binaries Binaries, args []string) (*postmaster, error) {
	log, err := l.openLog()
	if err != nil {
		return nil, err
	}
	// No context: the server is ended by end, which lets it finish what it writes.
	cmd := exec.Command(binaries.postgres(), append([]string{"-D", l.cluster()}, args...)...) //nolint:noctx // as said
	l.prepare(cmd)
	cmd.SysProcAttr.Setsid = true
	cmd.Stdout, cmd.Stderr = log, log
	if err := errors.Join(cmd.Start(), log.Close()); err != nil {
		return nil, fmt.Errorf("starting PostgreSQL: %w", err)
	}
	p := &postmaster{pid: cmd.Process.Pid, done: make(chan struct{})}
	go func() { // owned by the postmaster: end waits for done
		p.finish(cmd.Wait())
	}()
	return p, nil
}

// watch follows a server that is not our child until it ends or ctx does.
func watch(ctx context.Context, l layout, pid int) *postmaster {
	p := &postmaster{pid: pid, done: make(chan struct{})}
	go func() { // owned by the postmaster: end waits for done
		tick := time.NewTicker(adoptedInterval)
		defer tick.Stop()
		for runs(l, pid) {
			select {
			case <-tick.C:
			case <-ctx.Done():
				p.finish(ctx.Err())
				return
			}
		}
		p.finish(nil)
	}()
	return p
}

func (p *postmaster) finish(cause error) {
	if !p.asked.Load() {
		p.err = ErrServerDied
		if cause != nil {
			p.err = fmt.Errorf("%w: %w", ErrServerDied, cause)
		}
	}
	close(p.done)
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
// (fast shutdown); when ctx ends first, it becomes an immediate one, and at last a kill.
func (p *postmaster) end(ctx context.Context) error {
	p.asked.Store(true)
	_ = p.signal(syscall.SIGINT) // the only failure is that it has ended, and done says so too
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	}
	_ = p.signal(syscall.SIGQUIT)
	patience := time.NewTimer(stopPatience)
	defer patience.Stop()
	select {
	case <-p.done:
	case <-patience.C:
		_ = p.signal(syscall.SIGKILL)
		<-p.done
	}
	return fmt.Errorf("PostgreSQL was cut off instead of shut down: %w", ctx.Err())
}

func (p *postmaster) signal(sig syscall.Signal) error {
	if p.ended() {
		return os.ErrProcessDone
	}
	return syscall.Kill(p.pid, sig)
}

// pidFile is what a server says about itself.
type pidFile struct {
	pid  int
	port int // 0 while it starts
}

// readPidFile reads the cluster's postmaster.pid; false when there is none or it says nothing.
func readPidFile(l layout) (pidFile, bool) {
	held, err := os.ReadFile(filepath.Join(l.cluster(), postmasterFile))
	if err != nil {
		return pidFile{}, false
	}
	lines := strings.Split(string(held), "\n")
	var said pidFile
	if said.pid, err = strconv.Atoi(strings.TrimSpace(lines[0])); err != nil || said.pid <= 1 {
		return pidFile{}, false
	}
	if len(lines) > 3 {
		said.port, _ = strconv.Atoi(strings.TrimSpace(lines[3])) // absent while it starts
	}
	return said, true
}

// runs reports whether pid is a living PostgreSQL server for this very cluster. Process numbers are used again, so
// the number alone proves nothing. A zombie has no command line and counts as dead.
func runs(l layout, pid int) bool {
	args, err := commandLine(pid)
	if err != nil || len(args) == 0 || filepath.Base(args[0]) != "postgres" {
		return false
	}
	at := slices.Index(args, "-D")
	return at > 0 && at+1 < len(args) && args[at+1] == l.cluster()
}

func commandLine(pid int) ([]string, error) {
	found, err := process.NewProcess(int32(pid)) //nolint:gosec // process numbers are below 2^22
	if err != nil {
		return nil, err
	}
	return found.CmdlineSlice()
}

// disown handles a postmaster.pid whose number now belongs to some other process: PostgreSQL would take that process
// for a server and refuse to start. The file is not removed, since it also lets PostgreSQL see whether sessions of the
// dead server still use the cluster's shared memory; the number is replaced by ours, which PostgreSQL knows, as that
// of its parent, not to be a server.
func disown(l layout) error {
	cluster, err := os.OpenRoot(l.cluster()) // the folder may be another user's: no link leads us out of it
	if err != nil {
		return fmt.Errorf("opening the database folder: %w", err)
	}
	held, err := cluster.ReadFile(postmasterFile)
	if err == nil {
		_, rest, _ := strings.Cut(string(held), "\n")
		err = cluster.WriteFile(postmasterFile, []byte(strconv.Itoa(os.Getpid())+"\n"+rest), 0o600)
	}
	if err := errors.Join(err, cluster.Close()); err != nil {
		return fmt.Errorf("correcting %s: %w", postmasterFile, err)
	}
	return nil
}
