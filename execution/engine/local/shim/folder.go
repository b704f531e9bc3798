package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"github.com/stitchfix/flotilla-os/execution/engine/local/limits"
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

// Spec is what the server asks of the shim. The server writes it before it starts the shim, which never changes it.
type Spec struct {
	RunID   string `json:"run_id"`
	Attempt int    `json:"attempt"`
	// Argv is the program and its arguments.
	Argv []string `json:"argv"`
	// Env holds NAME=value entries in their order.
	Env []string `json:"env"`
	// MemoryMB and CPUMillicores are what the run requests: its share of the capacity.
	MemoryMB      int64 `json:"memory_mb"`
	CPUMillicores int64 `json:"cpu_millicores"`
	// MemoryLimitMB is in units of 10^6 bytes, as the "M" of Kubernetes; 0 means no limit.
	MemoryLimitMB int64 `json:"memory_limit_mb"`
	// CPULimitMillicores is enforced by a cgroup quota if there can be one; 0 means no limit.
	CPULimitMillicores int64 `json:"cpu_limit_millicores"`
	// DeadlineSeconds counts from the start of the command; 0 means no deadline.
	DeadlineSeconds int64 `json:"deadline_seconds"`
	// GraceSeconds lie between SIGTERM and SIGKILL.
	GraceSeconds int64         `json:"terminate_grace_seconds"`
	Limits       limits.Limits `json:"limits"`
	// Container is set if Argv is a container runtime's command line; the runtime then keeps the limits.
	Container *Container `json:"container,omitempty"`
}

// Name returns the name of the attempt's cgroups.
func (s Spec) Name() string { return fmt.Sprintf("%s-%d", s.RunID, s.Attempt) }

// Started records that a shim has taken the attempt. From then on the attempt is never started again.
type Started struct {
	// PID is the shim's, which leads the session that the command runs in.
	PID int `json:"pid"`
	// StartTicks is the shim's start time in clock ticks since boot. It tells a process from a later one with the same
	// PID.
	StartTicks int64     `json:"start_ticks"`
	BootID     string    `json:"boot_id"`
	StartedAt  time.Time `json:"started_at"`
	// DeadlineAt is zero if the run has no deadline.
	DeadlineAt time.Time `json:"deadline_at,omitzero"`
}

// Exit is the result of an attempt. Its file appears whole or not at all.
type Exit struct {
	ExitCode  int    `json:"exit_code"`
	Reason    string `json:"reason"`
	OOMKilled bool   `json:"oom_killed"`
	// Terminated reports that the server asked to end the command.
	Terminated bool `json:"terminated"`
	// NeverStarted reports that the command could not be executed at all.
	NeverStarted  bool      `json:"never_started"`
	StartedAt     time.Time `json:"started_at"`
	FinishedAt    time.Time `json:"finished_at"`
	MaxMemoryMB   int64     `json:"max_memory_mb"`
	MaxMillicores int64     `json:"max_cpu_millicores"`
}

// Folder is the absolute path of one attempt's folder.
type Folder string

// AttemptFolder returns the folder of one attempt of a run, below the data folder.
func AttemptFolder(dataDir, runID string, attempt int) Folder {
	return Folder(filepath.Join(dataDir, "runs", runID, fmt.Sprintf("attempt-%d", attempt)))
}

func (f Folder) path(name string) string { return filepath.Join(string(f), name) }

// LogPath returns the path of the file that holds stdout and stderr as the command wrote them.
func (f Folder) LogPath() string { return f.path(logFile) }

// WorkDir returns the path of the folder that the command runs in, its HOME.
func (f Folder) WorkDir() string { return f.path(workFolder) }

// Prepare makes the folder and writes the spec. Doing it again, after a crash in between, is harmless.
func (f Folder) Prepare(spec Spec) error {
	if err := os.MkdirAll(f.WorkDir(), 0o700); err != nil {
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

// ReadSpec returns what the attempt was asked to do. The error wraps fs.ErrNotExist if there is no spec.
func (f Folder) ReadSpec() (Spec, error) {
	spec, err := read[Spec](f, specFile)
	if err == nil && spec == nil {
		err = fmt.Errorf("%s: %w", f.path(specFile), fs.ErrNotExist)
	}
	if err != nil {
		return Spec{}, err
	}
	return *spec, nil
}

// ReadStarted returns nil if the attempt was never started.
func (f Folder) ReadStarted() (*Started, error) { return read[Started](f, startedFile) }

// ReadExit returns nil if no result was written.
func (f Folder) ReadExit() (*Exit, error) { return read[Exit](f, exitFile) }

// read decodes a file of the folder; it returns nil if there is no such file.
func read[T any](f Folder, name string) (*T, error) {
	body, err := os.ReadFile(f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the run's folder: %w", err)
	}
	value := new(T)
	if err := json.Unmarshal(body, value); err != nil {
		return nil, fmt.Errorf("reading %s: %w", f.path(name), err)
	}
	return value, nil
}

func (f Folder) stopRequested() bool {
	_, err := os.Stat(f.path(stopFile))
	return err == nil
}

// Locked reports whether a shim lives in the folder.
func (f Folder) Locked() (bool, error) {
	lock := f.lock()
	free, err := lock.TryLock()
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking at the run's lock: %w", err)
	}
	return !free, lock.Close()
}

// lock returns the attempt's lock, which its shim holds as long as it lives.
func (f Folder) lock() *flock.Flock { return flock.New(f.path(lockFile)) }

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
