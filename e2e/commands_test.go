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
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres"
	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state"
)

// shellPatience bounds a command that should end by itself.
const shellPatience = 3 * time.Minute

// atShell runs one command line as a person would, in dir, and answers what
// it printed and its exit status.
func atShell(t *testing.T, dir string, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	program, err := faultyProgram()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), shellPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // its status is asked for below
	require.NoError(t, ctx.Err(), "the command did not end: %s", errs.String())
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// lastLine is what a person sees at the end.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

func TestMistakesAreSaidInOneLine(t *testing.T) {
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
		"a word that is no command":  {args: []string{"sevre"}, want: []string{"sevre", "--help"}},
		"no configuration":           {args: []string{"serve"}, want: []string{"conf"}},
		"no database configured":     {args: []string{"serve", empty}, want: []string{"database_url"}},
		"a bare folder means serve":  {args: []string{empty}, want: []string{"database_url"}},
		"a database that does not answer": {
			args: []string{"serve", empty}, env: []string{nowhere, "HTTP_SERVER_LISTEN_ADDRESS=127.0.0.1:0"},
			want: []string{"127.0.0.1:1"},
		},
		"a value that cannot be":             {args: []string{"serve", conf}, want: []string{"worker_submit_interval", "soon"}},
		"a port that is taken":               {args: []string{"dev", "--listen", taken.Addr().String()}, want: []string{taken.Addr().String(), "--listen"}},
		"an address that others can reach":   {args: []string{"dev", "--listen", "0.0.0.0:0"}, want: []string{"0.0.0.0:0", "http_server_api_tokens"}},
		"an address that is none":            {args: []string{"dev", "--listen", "5000"}, want: []string{"--listen"}},
		"verifying where nothing is running": {args: []string{"ara", "verify", "--data-dir", empty}, want: []string{"flotilla-os dev"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, status := atShell(t, t.TempDir(), mistake.env, mistake.args...)
			assert.Equal(t, 1, status)
			assert.Empty(t, stdout)
			said := lastLine(stderr)
			assert.True(t, strings.HasPrefix(said, "flotilla-os: "), stderr)
			for _, part := range mistake.want {
				assert.Contains(t, said, part)
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

// devMode starts dev in dir and waits until it answers.
func devMode(t *testing.T, dir string) (url string, cmd *exec.Cmd, log *logWatch) {
	t.Helper()
	program, err := faultyProgram()
	require.NoError(t, err)
	cmd = exec.Command(program, "dev", "--listen", "127.0.0.1:0")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TERMINATE_GRACE_SECONDS=1"}
	log = newLogWatch()
	cmd.Stderr = log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}
		if t.Failed() {
			t.Log(log.tail())
		}
	})
	line := log.await(nil, "serving", recovery)
	require.NotNil(t, line, log.tail())
	return fmt.Sprintf("http://%s", line["address"]), cmd, log
}

// removeHome removes the database that root's dev mode keeps outside dir.
func removeHome(t *testing.T, dir string) {
	t.Cleanup(func() {
		home, err := postgres.HomeOf(postgres.ServerConfig{DataDir: filepath.Join(dir, ".flotilla")})
		require.NoError(t, err)
		require.NoError(t, os.RemoveAll(home))
	})
}

func TestDevModeKeepsWhatItHasAndEndsByCtrlC(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	removeHome(t, dir)
	url, cmd, _ := devMode(t, dir)

	var samples struct{ Definitions []state.Definition }
	status, err := call(t.Context(), http.MethodGet, url+"/api/v6/task", nil, &samples)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	assert.NotEmpty(t, samples.Definitions)

	_, stderr, refused := atShell(t, dir, nil, "dev", "--listen", "127.0.0.1:0")
	assert.Equal(t, 1, refused, "a second copy in the same folder")
	assert.Contains(t, lastLine(stderr), ".flotilla")

	var run state.Run
	status, err = call(t.Context(), http.MethodPut, url+"/api/v6/task/alias/hello/execute",
		object{"run_tags": object{"owner_id": "me"}}, &run)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)

	stdout, stderr, verified := atShell(t, dir, nil, "ara", "verify", "--data-dir", ".flotilla", "--json")
	assert.Equal(t, 0, verified, stderr)
	var report state.ARAReport
	require.NoError(t, json.Unmarshal([]byte(stdout), &report))
	assert.EqualValues(t, 1, report.Runs)

	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait(), "Ctrl-C is no failure")
	_, err = postgres.RunningURL(filepath.Join(dir, ".flotilla"))
	require.Error(t, err, "its Postgres ended with it")

	url, _, _ = devMode(t, dir)
	require.Eventually(t, func() bool {
		var again state.Run
		status, err := call(t.Context(), http.MethodGet, url+"/api/v6/history/"+run.RunID, nil, &again)
		return err == nil && status == http.StatusOK && again.Status == state.StatusStopped &&
			again.ExitCode != nil && *again.ExitCode == 0
	}, recovery, 50*time.Millisecond, "the second start finds the run of the first")
}

// A dev mode that was killed leaves its Postgres and its runs behind; the next
// start takes over both.
func TestDevModeTakesOverWhatACrashLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	removeHome(t, dir)
	url, cmd, _ := devMode(t, dir)
	var run state.Run
	status, err := call(t.Context(), http.MethodPut, url+"/api/v6/task/alias/hello/execute",
		object{"run_tags": object{"owner_id": "me"}, "command": "sleep 1; echo survived"}, &run)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	left, err := postgres.RunningURL(filepath.Join(dir, ".flotilla"))
	require.NoError(t, err, "the crash left its Postgres")

	url, cmd, _ = devMode(t, dir)
	now, err := postgres.RunningURL(filepath.Join(dir, ".flotilla"))
	require.NoError(t, err)
	assert.Equal(t, left, now, "it is used on")
	require.Eventually(t, func() bool {
		status, err := call(t.Context(), http.MethodGet, url+"/api/v6/history/"+run.RunID, nil, &run)
		return err == nil && status == http.StatusOK && run.Status == state.StatusStopped
	}, recovery, 50*time.Millisecond)
	assert.EqualValues(t, 0, *run.ExitCode)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait())
	_, err = postgres.RunningURL(filepath.Join(dir, ".flotilla"))
	require.Error(t, err, "an adopted Postgres ends with us too")
}

func TestDemoTellsTheStory(t *testing.T) {
	t.Parallel()
	for name, env := range map[string][]string{
		"with the limits that this machine has": nil,
		"by the watchdog":                       {"LOCAL_LIMIT_MODE=watchdog"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, status := atShell(t, t.TempDir(), env, "demo")
			require.Equal(t, 0, status, stdout+stderr)
			assert.Contains(t, stdout, "exit code 137, OOMKilled")
			assert.Contains(t, stdout, "896 MB")
			assert.Contains(t, stdout, "734003200", "the log of run 2")
			assert.NotContains(t, stdout, "\x1b[", "no colours where nobody looks")
		})
	}
}

func TestVerifyFailsForARunThatIsNotIdentifiedByItsCommand(t *testing.T) {
	t.Parallel()
	server := pgtest.NewServer(t)
	url := server.CreateDatabase("verify")
	in := newInstallation(t, url)
	env := []string{"DATABASE_URL=" + url}
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
	assert.Equal(t, 0, status, "older rows are not looked at")
}
