package pgtest_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
)

// asDoomed is an environment variable that makes TestDoomed wait, in a test process of its own, until it is killed.
const asDoomed = "FLOTILLA_TEST_DOOMED"

// TestDoomed is the test that TestAKilledTestProcessLeavesNothing kills. Run alone it only checks that both kinds of
// server start.
func TestDoomed(t *testing.T) {
	db := pgtest.New(t).Open(t)
	own := pgtest.NewServer(t)
	own.Kill()
	own.Start()
	if os.Getenv(asDoomed) == "" {
		require.NoError(t, db.Ping())
		return
	}
	var shared, private string
	require.NoError(t, db.QueryRow(`SHOW data_directory`).Scan(&shared))
	private = dataDirectory(t, own.URL("postgres"))
	fmt.Printf("folders %s %s\n", shared, private)
	<-t.Context().Done()
}

func TestAKilledTestProcessLeavesNothing(t *testing.T) {
	t.Parallel()
	tests := map[string]syscall.Signal{
		"killed":                    syscall.SIGKILL,
		"interrupted at a terminal": syscall.SIGINT,
		"timed out":                 syscall.SIGQUIT,
	}
	for name, signal := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			temp := t.TempDir()
			require.NoError(t, os.Chmod(temp, 0o755))
			cmd := exec.Command(os.Args[0], "-test.run=^TestDoomed$", "-test.v")
			cmd.Env = append(os.Environ(), asDoomed+"=1", "TMPDIR="+temp)
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			clusters := announced(bufio.NewScanner(out))
			killed := cmd.Process.Signal(signal)
			_ = cmd.Wait() // returns that it was killed
			require.NoError(t, killed)
			require.Len(t, clusters, 2)
			for _, cluster := range clusters {
				assert.Eventually(t, func() bool {
					return gone(filepath.Dir(cluster)) && len(serving(t, cluster)) == 0
				}, 2*time.Minute, 50*time.Millisecond, "%s is still there or served by %v", cluster, serving(t, cluster))
			}
			assert.Eventually(t, func() bool {
				left, err := os.ReadDir(temp)
				return err == nil && len(left) == 0
			}, 2*time.Minute, 50*time.Millisecond, "the data folders are still there")
		})
	}
}

// announced returns the folders that TestDoomed prints.
func announced(lines *bufio.Scanner) []string {
	for lines.Scan() {
		if _, folders, ok := strings.Cut(lines.Text(), "folders "); ok {
			return strings.Fields(folders)
		}
	}
	return nil
}

func gone(path string) bool {
	_, err := os.Lstat(path)
	return os.IsNotExist(err)
}

// serving returns the processes whose working folder is the cluster, which every process of a server has.
func serving(t *testing.T, cluster string) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	require.NoError(t, err)
	var pids []string
	for _, link := range links {
		if dir, err := os.Readlink(link); err == nil && strings.HasPrefix(dir, cluster) {
			pids = append(pids, filepath.Base(filepath.Dir(link)))
		}
	}
	return pids
}

func dataDirectory(t *testing.T, url string) string {
	t.Helper()
	db := open(t, url)
	var dir string
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, db.QueryRowContext(ctx, `SHOW data_directory`).Scan(&dir))
	return dir
}
