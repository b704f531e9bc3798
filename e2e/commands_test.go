package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres"
	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state"
)

// atShell runs one command line in dir, as a user does, and returns its output and exit status.
func atShell(t *testing.T, dir string, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	program, err := faultyProgram()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // its exit status is returned
	require.NoError(t, ctx.Err(), "the command does not end: %s", errs.String())
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// lastLine returns the last line of text.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

func TestMistakesAreReportedInOneLine(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = taken.Close() })
	const secret = "hunter2"
	nowhere := "DATABASE_URL=postgres://flotilla:" + secret + "@127.0.0.1:1/flotilla?sslmode=disable"
	conf := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(conf, "config.yml"), []byte("worker_submit_interval: soon\n"), 0o600))
	empty := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(empty, "config.yml"), nil, 0o600))

	for name, mistake := range map[string]struct {
		args []string
		env  []string
		want []string
	}{
		"a flag that does not exist": {args: []string{"dev", "--prot", "1"}, want: []string{"--prot"}},
		"an unknown command":         {args: []string{"sevre"}, want: []string{"sevre", "--help"}},
		"no configuration":           {args: []string{"serve"}, want: []string{"conf"}},
		"no database configured":     {args: []string{"serve", empty}, want: []string{"database_url"}},
		"a bare folder means serve":  {args: []string{empty}, want: []string{"database_url"}},
		"an unreachable database": {
			args: []string{"serve", empty}, env: []string{nowhere, "HTTP_SERVER_LISTEN_ADDRESS=127.0.0.1:0"},
			want: []string{"127.0.0.1:1"},
		},
		"a malformed value":               {args: []string{"serve", conf}, want: []string{"worker_submit_interval", "soon"}},
		"a port that is taken":            {args: []string{"dev", "--listen", taken.Addr().String()}, want: []string{taken.Addr().String(), "--listen"}},
		"a public address without tokens": {args: []string{"dev", "--listen", "0.0.0.0:0"}, want: []string{"0.0.0.0:0", "http_server_api_tokens"}},
		"a malformed address":             {args: []string{"dev", "--listen", "5000"}, want: []string{"--listen"}},
		"verifying where no server runs":  {args: []string{"ara", "verify", "--data-dir", empty}, want: []string{"flotilla-os dev"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, status := atShell(t, t.TempDir(), mistake.env, mistake.args...)
			assert.Equal(t, 1, status)
			assert.Empty(t, stdout)
			line := lastLine(stderr)
			assert.True(t, strings.HasPrefix(line, "flotilla-os: "), stderr)
			for _, part := range mistake.want {
				assert.Contains(t, line, part)
			}
			assert.NotContains(t, stderr, secret)
			assert.NotContains(t, stderr, "goroutine ")
		})
	}
}

func TestHelpNamesEveryCommand(t *testing.T) {
	t.Parallel()
	stdout, _, status := atShell(t, t.TempDir(), nil, "--help")
	assert.Equal(t, 0, status)
	for _, command := range []string{"serve", "dev", "demo", "migrate", "ara"} {
		assert.Contains(t, stdout, "\n  "+command)
	}
}

// devServer is a `flotilla-os dev` in a folder of its own.
type devServer struct {
	*server
	dir string
}

// newDevServer returns a dev mode that has not been started. It removes the database that root's dev mode keeps outside
// the folder when the test ends.
func newDevServer(t *testing.T) *devServer {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		home, err := postgres.HomeOf(postgres.ServerConfig{DataDir: filepath.Join(dir, ".flotilla")})
		require.NoError(t, err)
		require.NoError(t, os.RemoveAll(home))
	})
	return &devServer{dir: dir}
}

// start starts dev mode and waits until it listens.
func (d *devServer) start(t *testing.T) {
	t.Helper()
	program, err := faultyProgram()
	require.NoError(t, err)
	cmd := exec.Command(program, "dev", "--listen", "127.0.0.1:0")
	cmd.Dir = d.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.dir, "TERMINATE_GRACE_SECONDS=1"}
	d.server = &server{in: &installation{t: t}, cmd: cmd, output: newOutput(), exited: make(chan struct{})}
	s := d.server
	cmd.Stderr = s.output
	require.NoError(t, cmd.Start())
	go func() {
		defer close(s.exited)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // fails if it has exited
		s.awaitExit("dev mode does not exit")
		if t.Failed() {
			t.Log(s.output.tail())
		}
	})
	line := s.output.await(s.exited, "serving")
	require.NotNil(t, line, s.output.tail())
	s.url = fmt.Sprintf("http://%s", line["address"])
}

// interrupt ends dev mode as Ctrl-C does and requires exit status 0.
func (d *devServer) interrupt(t *testing.T) {
	t.Helper()
	require.NoError(t, d.cmd.Process.Signal(os.Interrupt))
	d.awaitExit("dev mode does not exit after Ctrl-C")
	require.True(t, d.cmd.ProcessState.Success(), "dev mode ended by %v", d.cmd.ProcessState)
}

// postgresURL returns the URL of dev mode's Postgres, or an error if it does not run.
func (d *devServer) postgresURL() (string, error) {
	return postgres.RunningURL(filepath.Join(d.dir, ".flotilla"))
}

// runHello submits a run of the sample definition.
func (d *devServer) runHello(fields ...object) string {
	d.in.t.Helper()
	var run created
	d.mustCall(http.MethodPut, "/task/alias/hello/execute", runRequest(fields...), &run)
	return run.ID
}

func TestDevModeKeepsItsDataAndEndsByCtrlC(t *testing.T) {
	t.Parallel()
	d := newDevServer(t)
	d.start(t)

	var samples struct{ Definitions []object }
	d.mustCall(http.MethodGet, "/task", nil, &samples)
	assert.NotEmpty(t, samples.Definitions)

	_, stderr, refused := atShell(t, d.dir, nil, "dev", "--listen", "127.0.0.1:0")
	assert.Equal(t, 1, refused, "a second copy in the same folder")
	assert.Contains(t, lastLine(stderr), ".flotilla")

	run := d.runHello()
	stdout, stderr, verified := atShell(t, d.dir, nil, "ara", "verify", "--data-dir", ".flotilla", "--json")
	assert.Equal(t, 0, verified, stderr)
	var report state.ARAReport
	require.NoError(t, json.Unmarshal([]byte(stdout), &report))
	assert.EqualValues(t, 1, report.Runs)

	d.interrupt(t)
	_, err := d.postgresURL()
	require.Error(t, err, "its Postgres ends with it")

	d.start(t)
	assert.EqualValues(t, 0, d.awaitStopped(run).code(), "the second start executes the run of the first")
}

// A dev mode that was killed leaves its Postgres and its runs behind; the next start takes over both.
func TestDevModeTakesOverAfterACrash(t *testing.T) {
	t.Parallel()
	d := newDevServer(t)
	d.start(t)
	run := d.runHello(object{"command": "sleep 1; echo survived"})
	d.kill()
	left, err := d.postgresURL()
	require.NoError(t, err, "the crash leaves Postgres running")

	d.start(t)
	now, err := d.postgresURL()
	require.NoError(t, err)
	assert.Equal(t, left, now, "the next start uses the same Postgres")
	assert.EqualValues(t, 0, d.awaitStopped(run).code())
	d.interrupt(t)
	_, err = d.postgresURL()
	require.Error(t, err, "an adopted Postgres ends with dev mode too")
}

func TestDemoSucceeds(t *testing.T) {
	t.Parallel()
	for name, env := range map[string][]string{
		"with the limits of this machine": nil,
		"with the watchdog":               {"LOCAL_LIMIT_MODE=watchdog"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, status := atShell(t, t.TempDir(), env, "demo")
			require.Equal(t, 0, status, stdout+stderr)
			assert.Contains(t, stdout, "exit code 137, OOMKilled")
			assert.Contains(t, stdout, "896 MB")
			assert.Contains(t, stdout, "734003200", "the log of run 2")
			assert.NotContains(t, stdout, "\x1b[", "no colours without a terminal")
		})
	}
}

func TestVerifyFailsIfAHashIsNotThatOfTheCommand(t *testing.T) {
	t.Parallel()
	in := newInstallation(t, pgtest.New(t).URL)
	env := []string{"DATABASE_URL=" + in.dbURL}
	_, stderr, status := atShell(t, in.dir, env, "migrate", in.conf)
	require.Equal(t, 0, status, stderr)

	stdout, stderr, status := atShell(t, in.dir, env, "ara", "verify", in.conf)
	assert.Equal(t, 0, status, stderr)
	assert.NotContains(t, stdout, "MUST BE 0")

	in.exec(`INSERT INTO task (run_id, definition_id, command, command_hash, status, queued_at, memory, attempt_count)
		VALUES ('eks-1', 'd', 'true', md5('true'), 'STOPPED', now(), 2000, 1)`)
	for most, at := range map[string]int64{"1999": 1, "2001": 0} {
		stdout, _, _ = atShell(t, in.dir, append(env, "ARA_MAX_MEMORY="+most), "ara", "verify", in.conf, "--json")
		var report state.ARAReport
		require.NoError(t, json.Unmarshal([]byte(stdout), &report))
		assert.Equal(t, at, report.AtMaximum, "the configured maximum counts")
	}

	in.exec(`UPDATE task SET command_hash = md5('a description')`)
	stdout, _, status = atShell(t, in.dir, env, "ara", "verify", in.conf)
	assert.Equal(t, 1, status)
	assert.Contains(t, stdout, "MUST BE 0")
	_, _, status = atShell(t, in.dir, env, "ara", "verify", in.conf, "--since", "1ns")
	assert.Equal(t, 0, status, "older rows are not verified")
}
