package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"
)

// logWatch keeps what a server logs and lets tests wait for a line of it.
type logWatch struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed and replaced at each write
}

func newLogWatch() *logWatch { return &logWatch{changed: make(chan struct{})} }

// Write implements io.Writer.
func (l *logWatch) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
	return l.text.Write(p)
}

// String is all that was written.
func (l *logWatch) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// tail is the last of it, for a person to read.
func (l *logWatch) tail() string {
	const most = 20_000
	text := l.String()
	return text[max(0, len(text)-most):]
}

// find answers the first line with the message, nil where there is none.
func (l *logWatch) find(message string) map[string]any {
	lines := bufio.NewScanner(strings.NewReader(l.String()))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line map[string]any
		if json.Unmarshal(lines.Bytes(), &line) == nil && line["msg"] == message {
			return line
		}
	}
	return nil
}

// await waits for a line with the message; it answers nil when the server
// ended, or the patience did.
func (l *logWatch) await(exited <-chan struct{}, message string, patience time.Duration) map[string]any {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		if line := l.find(message); line != nil {
			return line
		}
		select {
		case <-changed:
		case <-exited:
			return l.find(message)
		case <-deadline.C:
			return nil
		}
	}
}

// processes lists the living processes that work in the installation's folder
// or below, by id and command line: shims, commands and what those started.
func (in *installation) processes() map[int]string {
	found := map[int]string{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return found
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		cwd, _ := os.Readlink(filepath.Join("/proc", entry.Name(), "cwd"))
		raw, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		args := strings.ReplaceAll(string(raw), "\x00", " ")
		isShim := strings.Contains(args, " shim") && in.holds(pid)
		if isShim || strings.HasPrefix(cwd, in.dir+"/") {
			found[pid] = args + "in " + cwd
		}
	}
	return found
}

// holds is whether a process has a file of the installation open, as a shim has
// its lock.
func (in *installation) holds(pid int) bool {
	fds, _ := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "fd", "*"))
	for _, fd := range fds {
		if target, _ := os.Readlink(fd); strings.HasPrefix(target, in.dir+"/") {
			return true
		}
	}
	return false
}

// killProcesses leaves nothing behind.
func (in *installation) killProcesses() {
	for pid := range in.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// stop ends the server as an operator does; it has 30 s (architecture.md,
// Production).
func (s *server) stop() {
	s.in.t.Helper()
	require.NoError(s.in.t, s.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-s.exited:
	case <-time.After(30 * time.Second):
		require.FailNow(s.in.t, "the server did not end within 30 s of SIGTERM")
	}
	require.True(s.in.t, s.cmd.ProcessState.Success(), "the server ended by %v", s.cmd.ProcessState)
}
