package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Names of the files in an attempt's folder. The folder is the whole protocol between the server and the shim: each
// side may die at any time, and the other reads here what happened.
const (
	specFile    = "spec.json"
	lockFile    = "lock"
	startedFile = "started.json"
	stopFile    = "stop"
	exitFile    = "exit.json"
	logFile     = "log"
	shimLogFile = "shim.log"
	workFolder  = "work"
)

// Spec is what the server asks of the shim; written before the shim starts, never changed after.
type Spec struct {
	RunID   string `json:"run_id"`
	Attempt int    `json:"attempt"`
	// Argv is the program and its arguments; see Command.
	Argv []string `json:"argv"`
	// Env holds NAME=value entries in their order.
	Env []string `json:"env"`
	// MemoryMB and CPUMillicores are what the run requests: its share of the capacity.
	MemoryMB      int64 `json:"memory_mb"`
	CPUMillicores int64 `json:"cpu_millicores"`
	// MemoryLimitMB is in units of 10^6 bytes, as the "M" of Kubernetes; 0 means no limit.
	MemoryLimitMB int64 `json:"memory_limit_mb"`
	// CPULimitMillicores is enforced by a cgroup quota where one is to be had; 0 means no limit.
	CPULimitMillicores int64 `json:"cpu_limit_millicores"`
	// DeadlineSeconds counts from the start of the command; 0 means none.
	DeadlineSeconds int64 `json:"deadline_seconds"`
	// GraceSeconds lie between SIGTERM and SIGKILL.
	GraceSeconds int64  `json:"terminate_grace_seconds"`
	Limits       Limits `json:"limits"`
	// Container is set where Argv is a container runtime's command line; the runtime then keeps the limits.
	Container *Container `json:"container,omitempty"`
}

// Started says that the shim has taken the attempt: from here on it is never started again.
type Started struct {
	// PID of the shim, which leads the session that the command runs in.
	PID int `json:"pid"`
	// StartTicks is the shim's start time in clock ticks since boot: it tells a process from a later one of the same PID.
	StartTicks int64     `json:"start_ticks"`
	BootID     string    `json:"boot_id"`
	StartedAt  time.Time `json:"started_at"`
	// DeadlineAt is zero where the run has no deadline.
	DeadlineAt time.Time `json:"deadline_at,omitzero"`
}

// Exit is the result of an attempt; the file appears whole or not at all.
type Exit struct {
	ExitCode  int    `json:"exit_code"`
	Reason    string `json:"reason"`
	OOMKilled bool   `json:"oom_killed"`
	// Terminated says that we were asked to end the command: its code is then not the command's own verdict.
	Terminated bool `json:"terminated"`
	// NeverStarted says that the command could not be executed at all.
	NeverStarted  bool      `json:"never_started"`
	StartedAt     time.Time `json:"started_at"`
	FinishedAt    time.Time `json:"finished_at"`
	MaxMemoryMB   int64     `json:"max_memory_mb"`
	MaxMillicores int64     `json:"max_cpu_millicores"`
}

// Folder is the absolute path of one attempt's folder.
type Folder string

// AttemptFolder is where attempt number attempt of a run lives below the data folder.
func AttemptFolder(dataDir, runID string, attempt int) Folder {
	return Folder(filepath.Join(dataDir, "runs", runID, fmt.Sprintf("attempt-%d", attempt)))
}

func (f Folder) path(name string) string { return filepath.Join(string(f), name) }

// name is "RUN/attempt-N".
func (f Folder) name() string {
	return filepath.Join(filepath.Base(filepath.Dir(string(f))), filepath.Base(string(f)))
}

// LogPath is the file that holds stdout and stderr as the command wrote them.
func (f Folder) LogPath() string { return f.path(logFile) }

// Prepare makes the folder and writes the spec. Doing it again, after a crash in between, is harmless.
func (f Folder) Prepare(spec Spec) error {
	if err := os.MkdirAll(f.path(workFolder), 0o700); err != nil {
		return fmt.Errorf("making the run's folder: %w", err)
	}
	// The entries that lead to the folder must survive a power failure as surely as "started" in it does.
	for _, dir := range []string{filepath.Dir(filepath.Dir(string(f))), filepath.Dir(string(f)), string(f)} {
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return f.write(specFile, spec)
}

// ReadSpec returns what the attempt was asked to do.
func (f Folder) ReadSpec() (Spec, error) {
	var spec Spec
	found, err := f.read(specFile, &spec)
	if err == nil && !found {
		err = fmt.Errorf("%s: %w", f.path(specFile), fs.ErrNotExist)
	}
	return spec, err
}

// ReadStarted returns nil where the attempt was never started.
func (f Folder) ReadStarted() (*Started, error) {
	var started Started
	found, err := f.read(startedFile, &started)
	if err != nil || !found {
		return nil, err
	}
	return &started, nil
}

// ReadExit returns nil where no result was written.
func (f Folder) ReadExit() (*Exit, error) {
	var exit Exit
	found, err := f.read(exitFile, &exit)
	if err != nil || !found {
		return nil, err
	}
	return &exit, nil
}

// RequestStop leaves the wish to stop in the folder, so that a shim that has not looked yet does not start its command.
func (f Folder) RequestStop() error {
	if f.stopRequested() {
		return nil
	}
	if err := os.MkdirAll(string(f), 0o700); err != nil {
		return fmt.Errorf("making the run's folder: %w", err)
	}
	return f.write(stopFile, struct{}{})
}

func (f Folder) stopRequested() bool {
	_, err := os.Stat(f.path(stopFile))
	return err == nil
}

// Locked says whether a shim lives in the folder.
func (f Folder) Locked() (bool, error) {
	lock, err := f.lock()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, errLocked):
		return true, nil
	case err != nil:
		return false, err
	}
	return false, lock.Close()
}

// errLocked: another process holds the attempt's lock.
var errLocked = errors.New("the run's folder is locked by another process")

// lock takes the attempt's exclusive lock without waiting; closing the file, or dying, gives it back.
func (f Folder) lock() (*os.File, error) { return lockPath(f.path(lockFile)) }

// lockPatiently tries for a while, because whoever looks at a lock holds it for a moment.
func (f Folder) lockPatiently(patience time.Duration) (*os.File, error) {
	retry := time.NewTicker(5 * time.Millisecond)
	defer retry.Stop()
	for deadline := time.Now().Add(patience); ; <-retry.C {
		lock, err := f.lock()
		if !errors.Is(err, errLocked) || time.Now().After(deadline) {
			return lock, err
		}
	}
}

func lockPath(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return file, nil
	}
	_ = file.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errLocked
	}
	return nil, fmt.Errorf("taking the lock %s: %w", path, err)
}

func (f Folder) read(name string, into any) (bool, error) {
	body, err := os.ReadFile(f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the run's folder: %w", err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return false, fmt.Errorf("reading %s: %w", f.path(name), err)
	}
	return true, nil
}

// write replaces a file durably: after it returns, a power failure leaves the whole new content.
func (f Folder) write(name string, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", name, err)
	}
	file, err := os.CreateTemp(string(f), name+".*.tmp")
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	_, err = file.Write(body)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), f.path(name))
	}
	if err != nil {
		_ = os.Remove(file.Name())
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return syncDir(string(f))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("syncing a folder: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("syncing %s: %w", path, err)
	}
	return nil
}
