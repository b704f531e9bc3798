package e2e

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/lib/pq" // the driver of the look at the tables
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/fault"
)

// root is the folder of the program.
const root = ".."

// recovery bounds every wait for the program to get somewhere, a lease and a
// restart included.
const recovery = 60 * time.Second

// These build the program where a test asks for it, once for all tests:
// with its fault points, and as users have it.
var (
	faultyProgram = sync.OnceValues(func() (string, error) { return buildProgram("-tags", "faultpoints") })
	plainProgram  = sync.OnceValues(func() (string, error) { return buildProgram() })
)

// builds are the folders with programs in them, for the end of the tests.
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
		return "", fmt.Errorf("building the program: %w\n%s", err, out)
	}
	return path, nil
}

// installation is a database and a data folder, and the servers that come and
// go on them.
type installation struct {
	t       testing.TB
	program string
	dbURL   string
	db      *sql.DB
	dir     string
	conf    string
	env     []string
}

// newInstallation prepares an installation of one local cluster whose servers
// have fault points. env holds further NAME=value pairs for every server of it.
func newInstallation(t testing.TB, dbURL string, env ...string) *installation {
	t.Helper()
	program, err := faultyProgram()
	require.NoError(t, err)
	return install(t, program, dbURL, env)
}

// install prepares an installation of a build of the program.
func install(t testing.TB, program, dbURL string, env []string) *installation {
	t.Helper()
	db, err := sql.Open("postgres", dbURL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	in := &installation{t: t, program: program, dbURL: dbURL, db: db, dir: t.TempDir(), env: env}
	in.conf = filepath.Join(in.dir, "conf")
	require.NoError(t, os.Mkdir(in.conf, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(in.conf, "config.yml"), nil, 0o600))
	t.Cleanup(in.killProcesses)
	return in
}

// dataDir is the folder of the local cluster of the server called name.
func (in *installation) dataDir(name string) string { return filepath.Join(in.dir, "data-"+name) }

// marker is a file to which commands append.
func (in *installation) marker(name string) string { return filepath.Join(in.dir, "marker-"+name) }

// lines reads a marker; one that is not there has none.
func (in *installation) lines(marker string) []string {
	in.t.Helper()
	body, err := os.ReadFile(marker)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	require.NoError(in.t, err)
	return strings.Fields(string(body))
}

// server is one process of the program.
type server struct {
	in     *installation
	cmd    *exec.Cmd
	log    *logWatch
	exited chan struct{}
	url    string // empty where it died before it listened
}

// start starts the server called name and waits until it listens, or has
// ended. env comes on top of the installation's.
func (in *installation) start(name string, env ...string) *server {
	in.t.Helper()
	s := &server{in: in, log: newLogWatch(), exited: make(chan struct{})}
	s.cmd = exec.Command(in.program, "serve", in.conf)
	s.cmd.Env = append(os.Environ(),
		"DATABASE_URL="+in.dbURL, "HTTP_SERVER_LISTEN_ADDRESS=127.0.0.1:0", "METRICS_CLIENT=none",
		"LOCAL_ENABLED=true", "LOCAL_CLUSTER_NAME=local", "EKS_CLUSTER_DEFAULT=local",
		"LOCAL_DATA_DIR="+in.dataDir(name), "LOCAL_MEMORY_MB=1000000", "LOCAL_CPU_MILLICORES=4096",
		"CLAIM_LEASE=1s", "RETRY_BASE_DELAY=0s", "WORKER_STATUS_INTERVAL=200ms", "TERMINATE_GRACE_SECONDS=1")
	s.cmd.Env = append(append(s.cmd.Env, in.env...), env...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	require.NoError(in.t, s.cmd.Start())
	go func() {
		defer close(s.exited)
		_ = s.cmd.Wait()
	}()
	in.t.Cleanup(func() {
		s.kill()
		if in.t.Failed() {
			in.t.Logf("server %s (%v) wrote:\n%s", name, env, s.log.tail())
		}
	})
	if address := s.log.await(s.exited, "serving", recovery); address != nil {
		s.url = "http://" + fmt.Sprint(address["address"])
	}
	return s
}

// kill ends the server as a crash does.
func (s *server) kill() {
	_ = s.cmd.Process.Kill() // it may have ended by itself
	<-s.exited
}

// awaitFault waits until the server has killed itself.
func (s *server) awaitFault() {
	s.in.t.Helper()
	select {
	case <-s.exited:
	case <-time.After(recovery):
		require.FailNow(s.in.t, "the server did not reach its fault point")
	}
	status, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.True(s.in.t, ok && status.Signaled() && status.Signal() == syscall.SIGKILL,
		"the server ended by %v and not at its fault point:\n%s", s.cmd.ProcessState, s.log)
}

func faultAt(n fault.Name) string { return fault.EnvVar + "=" + string(n) }

// call sends a request and decodes the answer into out. The error is that of
// the way there; status is 0 then.
func call(ctx context.Context, method, url string, body, out any) (status int, err error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(raw))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK || out == nil {
		return resp.StatusCode, nil
	}
	if text, ok := out.(*string); ok {
		*text = string(answer)
		return resp.StatusCode, nil
	}
	return resp.StatusCode, json.Unmarshal(answer, out)
}

// mustCall is call for requests that have to succeed.
func (s *server) mustCall(method, path string, body, out any) {
	s.in.t.Helper()
	ctx, cancel := context.WithTimeout(s.in.t.Context(), recovery)
	defer cancel()
	status, err := call(ctx, method, s.url+"/api/v6"+path, body, out)
	require.NoError(s.in.t, err)
	require.Equal(s.in.t, http.StatusOK, status, "%s %s", method, path)
}

type object = map[string]any

// define creates a definition that runs command and answers its id.
func (s *server) define(command string) string {
	s.in.t.Helper()
	var made struct {
		ID string `json:"definition_id"`
	}
	s.mustCall(http.MethodPost, "/task", object{
		"alias": "crash", "image": "none", "group_name": "crash", "command": command,
	}, &made)
	return made.ID
}

// launch asks for a run as a client does that may lose its server; it answers
// the run's id where it was acknowledged.
func (s *server) launch(definition string) string {
	ctx, cancel := context.WithTimeout(s.in.t.Context(), recovery)
	defer cancel()
	var run struct {
		ID string `json:"run_id"`
	}
	_, _ = call(ctx, http.MethodPut, s.url+"/api/v6/task/"+definition+"/execute",
		object{"run_tags": object{"owner_id": "crash"}}, &run)
	return run.ID
}

// row is what the tests look at of a run.
type row struct {
	id, status string
	code       sql.NullInt64
	reason     sql.NullString
	attempt    sql.NullInt64
}

// rows reads all runs in the order in which they were queued.
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

// awaitRuns waits until there are n runs and all of them have the status.
func (in *installation) awaitRuns(n int, status string, patience time.Duration) []row {
	in.t.Helper()
	var all []row
	reached := func() bool {
		var err error
		if all, err = in.rows(in.t.Context()); err != nil || len(all) < n {
			return false
		}
		for _, r := range all {
			if r.status != status {
				return false
			}
		}
		return true
	}
	require.Eventually(in.t, reached, patience, 20*time.Millisecond, "runs are not all %s: %v", status, &all)
	return all
}

func (in *installation) exec(query string, args ...any) {
	in.t.Helper()
	_, err := in.db.ExecContext(in.t.Context(), query, args...)
	require.NoError(in.t, err)
}
