package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// ErrVersionMismatch is returned if the database was made by a PostgreSQL major version that is not installed.
var ErrVersionMismatch = errors.New("database of another PostgreSQL version")

// clusterMajor returns the major version that made the cluster, or 0 if there is none yet.
func (l layout) clusterMajor() (int, error) {
	path := filepath.Join(l.cluster(), "PG_VERSION")
	held, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(l.cluster()); err == nil {
			return 0, fmt.Errorf("%s is not a database (it has no PG_VERSION): remove it to begin with an empty one", l.cluster())
		}
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the database's version: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(held)))
	if err != nil {
		return 0, fmt.Errorf("%s does not hold a major version: %q", path, held)
	}
	return major, nil
}

// binariesFor returns the installation that can run the cluster: the preferred one for a new cluster (major 0).
func (l layout) binariesFor(installed []Binaries, major int) (Binaries, error) {
	for _, candidate := range installed {
		if major == 0 || candidate.Major == major {
			return candidate, nil
		}
	}
	return Binaries{}, fmt.Errorf("%w: %s was made by PostgreSQL %d, and %s has %d: install PostgreSQL %d, or move the folder away",
		ErrVersionMismatch, l.home, major, installed[0].Dir, installed[0].Major, major)
}

// initialize makes the cluster under a temporary name and renames it when it is whole, so that an initdb that was cut
// short leaves nothing that looks like a database.
func (l layout) initialize(ctx context.Context, binaries Binaries, password string, noSync bool) (err error) {
	// Interrupted starts left these. One that cannot be removed does no harm: each attempt has a name of its own.
	left, _ := filepath.Glob(filepath.Join(l.home, initPrefix+"*"))
	for _, dir := range left {
		_ = os.RemoveAll(dir)
	}
	work, err := os.MkdirTemp(l.home, initPrefix)
	if err != nil {
		return fmt.Errorf("creating the database: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	pwfile := filepath.Join(work, "password")
	if err := os.WriteFile(pwfile, []byte(password+"\n"), 0o600); err != nil {
		return fmt.Errorf("creating the database: %w", err)
	}
	if err := errors.Join(l.give(pwfile), l.give(work)); err != nil {
		return fmt.Errorf("creating the database: %w", err)
	}
	made := filepath.Join(work, ClusterDir)
	args := []string{"-D", made, "--username=" + superuser, "--pwfile=" + pwfile, "--auth=scram-sha-256",
		"--encoding=UTF8", "--locale=" + locale()}
	if noSync {
		args = append(args, "--no-sync")
	}
	cmd := exec.CommandContext(ctx, binaries.initdb(), args...)
	l.prepare(cmd)
	// initdb removes what it has made if it is interrupted. It stays in our process group, so Ctrl-C ends it.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopPatience
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%s failed: %w: %s", binaries.initdb(), err, lastLine(string(out)))
	}
	if err := os.Rename(made, l.cluster()); err != nil {
		return fmt.Errorf("creating the database: %w", err)
	}
	return nil
}

// locale returns the locale that sorts by code point, the same on every machine and in every version. macOS knows it by
// the older name only.
func locale() string {
	if runtime.GOOS == "darwin" {
		return "C"
	}
	return "C.UTF-8"
}

// prepare sets the user, the folder and the environment of a program of the server. No PG… variable of the person at the
// terminal reaches it.
func (l layout) prepare(cmd *exec.Cmd) {
	cmd.Dir = l.home
	cmd.Env = []string{"HOME=" + l.home, "LC_ALL=C", "TZ=UTC"}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if l.owner != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: l.owner.uid, Gid: l.owner.gid}
	}
}

// maxLogBytes is the size at which the next start sets the server's log aside as postgres.log.1.
const maxLogBytes = 10 << 20

// openLog opens the file that the server logs to, and returns its size. A link is not followed: the folder may be
// another user's.
func (l layout) openLog() (*os.File, int64, error) {
	var size int64
	if info, err := os.Lstat(l.logPath()); err == nil && info.Size() <= maxLogBytes {
		size = info.Size()
	} else if err == nil {
		if err := os.Rename(l.logPath(), l.logPath()+".1"); err != nil {
			return nil, 0, fmt.Errorf("setting the old server log aside: %w", err)
		}
	}
	file, err := os.OpenFile(l.logPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("opening the server log: %w", err)
	}
	if err := l.give(l.logPath()); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("opening the server log: %w", err), file.Close())
	}
	return file, size, nil
}

// complaint returns the line of the server's log, from the byte offset on, that best explains why the server ended.
func (l layout) complaint(offset int64) string {
	held, err := os.ReadFile(l.logPath())
	if err != nil || int64(len(held)) < offset {
		return "see " + l.logPath()
	}
	text := string(held[offset:])
	for line := range strings.Lines(text) {
		if strings.Contains(line, "FATAL") || strings.Contains(line, "PANIC") {
			return strings.TrimSpace(line)
		}
	}
	return lastLine(text)
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}
