package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// asProgram is an environment variable that makes this test binary run startAndWait on the data folder it names.
const asProgram = "FLOTILLA_TEST_START_IN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asProgram); dir != "" {
		startAndWait(dir)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		for _, folder := range seeded {
			_ = os.RemoveAll(folder) // a leftover in the folder for temporary files fails no test
		}
		os.Exit(code)
	}))
}

// startAndWait is a program that starts a private server, prints its process id, and runs until it is killed.
func startAndWait(dir string) {
	server, err := Start(context.Background(), config(dir))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready", server.PID())
	select {}
}

// program is a second process with a server of its own.
type program struct {
	cmd    *exec.Cmd
	server int // process id
}

func startProgram(t *testing.T, dir string) *program {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asProgram+"="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &program{cmd: cmd}
	t.Cleanup(p.kill)
	_, err = fmt.Fscanf(out, "ready %d\n", &p.server)
	require.NoError(t, err, "the program did not start its server")
	return p
}

func (p *program) kill() {
	_ = p.cmd.Process.Kill() // fails if it was killed before
	_ = p.cmd.Wait()
}

// emptyDataDir returns a folder for one test. It is removed with the test, and so is its home.
func emptyDataDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	home, err := HomeOf(config(dir))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(home)) })
	return dir
}

// dataDir returns a folder for one test that holds a database, as Start makes it. The database is a copy of one that is
// made once: initdb takes long on a busy machine.
func dataDir(t *testing.T) string {
	t.Helper()
	made, err := seed()
	require.NoError(t, err)
	dir := emptyDataDir(t)
	l, err := newLayout(dir, config(dir))
	require.NoError(t, err)
	for from, to := range map[string]string{made.cluster(): l.cluster(), made.password(): l.password()} {
		out, err := exec.Command("cp", "-a", from, to).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	return dir
}

// seed returns the database that dataDir copies. TestMain removes it.
var seed = sync.OnceValues(func() (layout, error) {
	dir, err := os.MkdirTemp("", "flotilla-postgres-test-")
	if err != nil {
		return layout{}, err
	}
	seeded = []string{dir}
	server, err := Start(context.Background(), config(dir))
	if err != nil {
		return layout{}, err
	}
	seeded = append(seeded, server.Home())
	return server.layout, server.Stop(context.Background())
})

// seeded are the folders of seed.
var seeded []string

// config returns a configuration that is patient with a busy machine and does not wait for the disk.
func config(dir string) ServerConfig {
	return ServerConfig{DataDir: dir, NoSync: true, StartTimeout: 4 * time.Minute, Settings: map[string]string{"fsync": "off"}}
}

// start starts a server that ends with the test.
func start(t *testing.T, cfg ServerConfig) *Server {
	t.Helper()
	server, err := Start(testContext(t), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { stop(t, server) })
	return server
}

func stop(t *testing.T, server *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	require.NoError(t, server.Stop(ctx))
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// query executes a statement and returns its one value.
func query(t *testing.T, url, statement string) string {
	t.Helper()
	db, err := sql.Open("postgres", url)
	require.NoError(t, err)
	defer db.Close()
	var value string
	err = db.QueryRow(statement).Scan(&value)
	if !errors.Is(err, sql.ErrNoRows) {
		require.NoError(t, err)
	}
	return value
}

// serverProcesses returns the ids of the processes that serve a cluster.
func serverProcesses(t *testing.T, l layout) []string {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/cwd")
	require.NoError(t, err)
	var pids []string
	for _, link := range found {
		if dir, err := os.Readlink(link); err == nil && strings.HasPrefix(dir, l.cluster()) {
			pids = append(pids, filepath.Base(filepath.Dir(link)))
		}
	}
	return pids
}

func requireEnded(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		t.Fatal("the server's end was not noticed")
	}
}
