// Package e2e holds the tests and benchmarks of the whole program. They build flotilla-os, start it as its users do, talk
// to it over HTTP, and kill it. Files whose names begin with kube_ need a Kubernetes cluster and stand behind the build
// tag "kube".
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/lib/pq" // the database/sql driver with which the tests look at the tables
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/fault"
	"github.com/stitchfix/flotilla-os/state"
)

// root is the folder of the program's main package.
const root = ".."

const (
	// patience bounds every wait of the tests. A test on an idle machine needs a small part of it; a test on a loaded one
	// must not fail for being slow.
	patience = 5 * time.Minute
	// poll is the interval at which awaited conditions are checked.
	poll = 50 * time.Millisecond
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(withCleanup{pgtest.Wrap(m)})
}

// withCleanup removes what the tests share after the last of them.
type withCleanup struct{ tests goleak.TestingM }

// Run implements goleak.TestingM.
func (w withCleanup) Run() int {
	code := w.tests.Run()
	http.DefaultClient.CloseIdleConnections()
	for _, folder := range builds.folders {
		_ = os.RemoveAll(folder)
	}
	return code
}

// faultyProgram and plainProgram build the program at the first call and return the path of the binary. faultyProgram has
// fault points, plainProgram is what users have.
var (
	faultyProgram = sync.OnceValues(func() (string, error) { return buildProgram("-tags", "faultpoints") })
	plainProgram  = sync.OnceValues(func() (string, error) { return buildProgram() })
)

// builds lists the folders of binaries, which withCleanup removes.
var builds struct {
	sync.Mutex
	folders []string
}

func buildProgram(flags ...string) (string, error) {
	dir, err := os.MkdirTemp("", "flotilla-program-")
	if err != nil {
		return "", err
	}
	builds.Lock()
	builds.folders = append(builds.folders, dir)
	builds.Unlock()
	path := filepath.Join(dir, "flotilla-os")
	args := slices.Concat([]string{"build"}, flags, []string{"-o", path, root})
	out, err := exec.Command("go", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return path, nil
}

// installation is a database and a data folder, and the servers that are started on them.
type installation struct {
	t       testing.TB
	program string
	dbURL   string
	db      *sql.DB
	dir     string
	// conf is the configuration folder. Its config.yml is empty unless a test writes one.
	conf string
	// env holds NAME=value pairs for every server.
	env []string
	// definition holds fields that every definition gets unless the test sets them.
	definition object
}

// newInstallation returns an installation with one local cluster whose servers have fault points. env holds further
// NAME=value pairs for all of its servers.
func newInstallation(t testing.TB, dbURL string, env ...string) *installation {
	t.Helper()
	program, err := faultyProgram()
	require.NoError(t, err)
	return install(t, program, dbURL, env)
}

// install returns an installation of the given binary.
func install(t testing.TB, program, dbURL string, env []string) *installation {
	t.Helper()
	db, err := sql.Open("postgres", dbURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	in := &installation{
		t: t, program: program, dbURL: dbURL, db: db, dir: t.TempDir(), env: env, definition: object{"image": "none"},
	}
	in.conf = filepath.Join(in.dir, "conf")
	require.NoError(t, os.Mkdir(in.conf, 0o700))
	in.configure("")
	t.Cleanup(in.killProcesses)
	return in
}

// configure writes config.yml. A server reads it when it starts.
func (in *installation) configure(yaml string) {
	in.t.Helper()
	require.NoError(in.t, os.WriteFile(filepath.Join(in.conf, "config.yml"), []byte(yaml), 0o600))
}

// dataDir returns the folder of the local cluster of the named server.
func (in *installation) dataDir(server string) string { return filepath.Join(in.dir, "data-"+server) }

// marker returns the path of a file that commands append to or wait for.
func (in *installation) marker(name string) string { return filepath.Join(in.dir, "marker-"+name) }

// touch creates a marker.
func (in *installation) touch(marker string) {
	in.t.Helper()
	require.NoError(in.t, os.WriteFile(marker, nil, 0o600))
}

// untilExists returns shell code that waits until the marker exists.
func untilExists(marker string) string { return "until [ -e " + marker + " ]; do sleep 0.1; done" }

// lines returns the words of a marker, or nil if it does not exist.
func (in *installation) lines(marker string) []string {
	in.t.Helper()
	body, err := os.ReadFile(marker)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	require.NoError(in.t, err)
	return strings.Fields(string(body))
}

// exec executes an SQL statement.
func (in *installation) exec(query string, args ...any) {
	in.t.Helper()
	_, err := in.db.ExecContext(in.t.Context(), query, args...)
	require.NoError(in.t, err)
}

// row holds the columns of a run that tests check when no server may be there to be asked.
type row struct {
	id, status string
	code       sql.NullInt64
	reason     sql.NullString
	attempt    sql.NullInt64
}

// rows returns all runs in the order in which they were queued.
func (in *installation) rows(ctx context.Context) ([]row, error) {
	found, err := in.db.QueryContext(ctx, `SELECT run_id, status, exit_code, exit_reason, attempt_count FROM task ORDER BY queued_at`)
	if err != nil {
		return nil, err
	}
	defer func() { _ = found.Close() }()
	var all []row
	for found.Next() {
		var r row
		if err := found.Scan(&r.id, &r.status, &r.code, &r.reason, &r.attempt); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, found.Err()
}

// awaitRuns waits until there are at least n runs and all runs have the status, and returns them.
func (in *installation) awaitRuns(n int, status state.Status) []row {
	in.t.Helper()
	return in.awaitRunsFor(patience, n, status)
}

// awaitRunsFor is awaitRuns with a bound of its own.
func (in *installation) awaitRunsFor(bound time.Duration, n int, status state.Status) []row {
	in.t.Helper()
	var all []row
	reached := func() bool {
		var err error
		all, err = in.rows(in.t.Context())
		other := slices.ContainsFunc(all, func(r row) bool { return r.status != string(status) })
		return err == nil && len(all) >= n && !other
	}
	require.Eventually(in.t, reached, bound, poll, "runs are not all %s: %v", status, &all)
	return all
}

// await waits until reached returns true.
func (in *installation) await(what string, reached func() bool) {
	in.t.Helper()
	require.Eventually(in.t, reached, patience, poll, "waiting for: %s", what)
}

// server is one process of the program.
type server struct {
	in     *installation
	cmd    *exec.Cmd
	output *output
	exited chan struct{}
	url    string // empty if the server died before it listened
}

// start starts the named server and waits until it listens or has exited. env is added to the installation's.
func (in *installation) start(name string, env ...string) *server {
	in.t.Helper()
	s := &server{in: in, output: newOutput(), exited: make(chan struct{})}
	s.cmd = exec.Command(in.program, "serve", in.conf)
	s.cmd.Env = append(os.Environ(),
		"DATABASE_URL="+in.dbURL, "HTTP_SERVER_LISTEN_ADDRESS=127.0.0.1:0", "METRICS_CLIENT=none",
		// A request that is slow on a loaded machine is not cut off.
		"HTTP_SERVER_READ_TIMEOUT_SECONDS=120", "HTTP_SERVER_WRITE_TIMEOUT_SECONDS=120",
		"LOCAL_ENABLED=true", "LOCAL_CLUSTER_NAME=local", "EKS_CLUSTER_DEFAULT=local",
		"LOCAL_DATA_DIR="+in.dataDir(name), "LOCAL_MEMORY_MB=1000000", "LOCAL_CPU_MILLICORES=4096",
		"CLAIM_LEASE=1s", "RETRY_BASE_DELAY=0s", "WORKER_STATUS_INTERVAL=200ms", "TERMINATE_GRACE_SECONDS=1")
	s.cmd.Env = append(append(s.cmd.Env, in.env...), env...)
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	require.NoError(in.t, s.cmd.Start())
	go func() {
		defer close(s.exited)
		_ = s.cmd.Wait()
	}()
	in.t.Cleanup(func() {
		s.kill()
		if in.t.Failed() {
			in.t.Logf("output of server %s (%v):\n%s", name, env, s.output.tail())
		}
	})
	if serving := s.output.await(s.exited, "serving"); serving != nil {
		s.url = "http://" + fmt.Sprint(serving["address"])
	}
	return s
}

// serve is start for servers that must come up.
func (in *installation) serve(name string, env ...string) *server {
	in.t.Helper()
	s := in.start(name, env...)
	require.NotEmpty(in.t, s.url, "server %s does not start:\n%s", name, s.output)
	return s
}

// kill ends the server by SIGKILL, as a crash does.
func (s *server) kill() {
	_ = s.cmd.Process.Kill() // fails if the server has exited
	<-s.exited
}

// stop ends the server by SIGTERM, as an operator does, and requires exit status 0.
func (s *server) stop() {
	s.in.t.Helper()
	require.NoError(s.in.t, s.cmd.Process.Signal(syscall.SIGTERM))
	s.awaitExit("the server does not exit after SIGTERM")
	require.True(s.in.t, s.cmd.ProcessState.Success(), "the server ended by %v", s.cmd.ProcessState)
}

// awaitFault waits until the server has killed itself at its fault point.
func (s *server) awaitFault() {
	s.in.t.Helper()
	s.awaitExit("the server does not reach its fault point")
	status, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.True(s.in.t, ok && status.Signaled() && status.Signal() == syscall.SIGKILL,
		"the server ended by %v instead of its fault point:\n%s", s.cmd.ProcessState, s.output)
}

func (s *server) awaitExit(failure string) {
	s.in.t.Helper()
	select {
	case <-s.exited:
	case <-time.After(patience):
		require.FailNow(s.in.t, failure)
	}
}

// onlyWorkers returns the environment variable that makes a server run these workers only.
func onlyWorkers(types string) string { return "WORKER_TYPES=" + types }

// faultAt returns the environment variable that makes a server kill itself at a fault point.
func faultAt(n fault.Name) string { return fault.EnvVar + "=" + string(n) }

// output collects what a server writes and lets tests wait for a log line.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed and replaced at each write
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.text.Write(p)
}

// String returns everything written so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// tail returns the last 20,000 bytes.
func (o *output) tail() string {
	text := o.String()
	return text[max(0, len(text)-20_000):]
}

// logged returns the log lines that wanted accepts.
func (o *output) logged(wanted func(line object) bool) []object {
	var found []object
	lines := bufio.NewScanner(strings.NewReader(o.String()))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line object
		if json.Unmarshal(lines.Bytes(), &line) == nil && wanted(line) {
			found = append(found, line)
		}
	}
	return found
}

// find returns the first log line with the message, or nil if there is none.
func (o *output) find(message string) object {
	for _, line := range o.logged(func(line object) bool { return line["msg"] == message }) {
		return line
	}
	return nil
}

// await waits for a log line with the message and returns it. It returns nil if the server exits without that line, or if
// patience runs out.
func (o *output) await(exited <-chan struct{}, message string) object {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		o.mu.Lock()
		changed := o.changed
		o.mu.Unlock()
		if line := o.find(message); line != nil {
			return line
		}
		select {
		case <-changed:
		case <-exited:
			return o.find(message)
		case <-deadline.C:
			return nil
		}
	}
}

// processes returns the command lines, by process id, of the shims of the installation and of the processes whose working
// directory is below its folder.
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
		isShim := strings.Contains(args, " shim") && in.holdsFile(pid)
		if isShim || strings.HasPrefix(cwd, in.dir+"/") {
			found[pid] = args + "in " + cwd
		}
	}
	return found
}

// holdsFile reports whether a process has a file of the installation open. A shim holds its lock.
func (in *installation) holdsFile(pid int) bool {
	fds, _ := filepath.Glob(filepath.Join("/proc", strconv.Itoa(pid), "fd", "*"))
	return slices.ContainsFunc(fds, func(fd string) bool {
		target, _ := os.Readlink(fd)
		return strings.HasPrefix(target, in.dir+"/")
	})
}

// killProcesses kills the processes that outlive the servers.
func (in *installation) killProcesses() {
	for pid := range in.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}
