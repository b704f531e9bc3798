// Package local executes runs as processes of this machine, for development and for small installations without a
// cluster: the engine of clusters whose driver is "local".
//
// What lives here: admission by capacity, and the engine that ties attempts to the rows of runs. What does not: the
// program that executes one attempt (shim), how its memory and CPU are limited (limits), sizes and ARA
// (execution/adapter), statuses and their guards (state).
//
// The contract is architecture.md, "Local driver"; docs/crash-points.md says what a restart finds after each step.
package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/shirou/gopsutil/v4/mem"

	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/execution/engine/local/limits"
	"github.com/stitchfix/flotilla-os/execution/engine/local/shim"
	"github.com/stitchfix/flotilla-os/state"
)

// Names in the data folder.
const (
	runsFolder = "runs"
	nodeFile   = "node"
	// driverLock is held by the one server that drives the runs of the data folder.
	driverLock = "local.lock"
	// incomingFolder holds one file per run that another server accepted for the driver; it holds the time of queueing.
	incomingFolder = "incoming"
)

// Sizer decides what a run gets, and reports a decision once it is accepted; *adapter.Adapter.
type Sizer interface {
	Resources(ctx context.Context, executable state.Executable, run state.Run, capacity state.Size) (adapter.Sized, error)
	Report(ctx context.Context, run state.Run, sized adapter.Sized)
}

// Store is what the engine needs of the runs' rows.
type Store interface {
	// CommitStart records the intent to start a PENDING run of this node. It returns false if the run is not ours to
	// start.
	CommitStart(ctx context.Context, runID, node string) (bool, error)
	// ReturnRun puts a run that was never started back in the queue.
	ReturnRun(ctx context.Context, runID, node string) (bool, error)
	// ActiveRuns pages through the PENDING and RUNNING runs of a cluster and node by run id.
	ActiveRuns(ctx context.Context, key state.EngineKey, node, after string, limit int) ([]state.Run, error)
	// StoppedAmong returns which of the runs are STOPPED, or gone.
	StoppedAmong(ctx context.Context, runIDs []string) ([]string, error)
	// Heartbeat records that a node is alive.
	Heartbeat(ctx context.Context, node, host string) error
}

// Config configures New.
type Config struct {
	ClusterName string
	// DataDir holds the runs' folders. New makes it if it does not exist.
	DataDir string
	// MemoryMB and CPUMillicores are what runs may request together; 0 means 80 % of the machine.
	MemoryMB, CPUMillicores int64
	LimitMode               limits.Mode
	// ContainerRuntime is "docker" or "podman", by name or path, to execute runs in their images. Empty or "none"
	// executes them on the machine itself.
	ContainerRuntime string
	// TerminateGrace lies between SIGTERM and SIGKILL.
	TerminateGrace time.Duration
	// LogRetention is how long the folder of an ended run stays, its log included; 0 keeps it.
	LogRetention time.Duration
	Sizer        Sizer
	Store        Store
	Logger       *slog.Logger
	// Program is the binary whose command "shim" is shim.Run; empty means this very program.
	Program string
	// Clock is time.Now if nil.
	Clock func() time.Time
}

// Engine executes the runs of one local cluster as processes of this machine.
type Engine struct {
	cfg       Config
	dataDir   string
	node      string
	host      string
	limits    limits.Limits
	admission *admission
	launcher  shim.Launcher
	// driving reports that this process holds the folder's lock and follows. Other processes leave what they accept in
	// the incoming folder.
	driving atomic.Bool
	wake    chan struct{}
	// starts are runs whose start was committed by Execute. The follower takes them from here.
	startsMu sync.Mutex
	starts   []ticket
	// relist asks the follower to read from the database what it may have missed.
	relist atomic.Bool
	// beaten reports that a heartbeat was recorded.
	beaten atomic.Bool
}

var (
	_ engine.Engine = (*Engine)(nil)
	_ engine.OnNode = (*Engine)(nil)
)

// New prepares the data folder and finds out how limits can be kept here. Its error is one line for the operator.
func New(cfg Config) (*Engine, error) {
	if cfg.Sizer == nil || cfg.Store == nil || cfg.Logger == nil || cfg.ClusterName == "" {
		return nil, errors.New("local engine: a cluster name, a sizer, a store and a logger are needed")
	}
	if cfg.Program == "" {
		cfg.Program = shim.OwnProgram
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	e := &Engine{cfg: cfg, wake: make(chan struct{}, 1), launcher: shim.Launcher{Program: cfg.Program}}
	if err := e.prepareMachine(); err != nil {
		return nil, fmt.Errorf("local engine: %w", err)
	}
	cfg.Logger.Info("local engine ready", "cluster", cfg.ClusterName, "node", e.node, "limit_mode", e.limits.String(),
		"capacity_memory_mb", e.admission.capacity.Memory, "capacity_cpu_millicores", e.admission.capacity.CPU)
	return e, nil
}

func (e *Engine) prepareMachine() (err error) {
	if e.dataDir, err = filepath.Abs(e.cfg.DataDir); err != nil {
		return err
	}
	for _, dir := range []string{runsFolder, incomingFolder} {
		if err := os.MkdirAll(filepath.Join(e.dataDir, dir), 0o700); err != nil {
			return fmt.Errorf("making the data folder: %w", err)
		}
	}
	if e.node, err = nodeOf(e.dataDir); err != nil {
		return err
	}
	// The name tells the cgroups of one data folder from those of another on the same machine.
	sum := sha256.Sum256([]byte(e.node))
	name := "flotilla-" + hex.EncodeToString(sum[:6])
	if e.limits, err = limits.Probe(limits.ProbeConfig{Mode: e.cfg.LimitMode, Name: name}); err != nil {
		return err
	}
	capacity, err := capacityOf(e.cfg.MemoryMB, e.cfg.CPUMillicores)
	if err != nil {
		return err
	}
	e.admission = newAdmission(capacity)
	e.host, err = os.Hostname()
	return err
}

// nodeOf returns the name under which a data folder owns runs. It stays with the folder, not with the machine: whoever
// has the folder can take its runs over, nobody else can.
func nodeOf(dataDir string) (string, error) {
	path := filepath.Join(dataDir, nodeFile)
	own := path + "." + uuid.NewString() + ".tmp"
	if err := os.WriteFile(own, []byte(uuid.NewString()+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("naming this node: %w", err)
	}
	defer func() { _ = os.Remove(own) }()
	// A link, unlike a rename, lets the first of two servers win.
	if err := os.Link(own, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("naming this node: %w", err)
	}
	body, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("naming this node: %w", err)
	}
	name := strings.TrimSpace(string(body))
	if name == "" {
		return "", fmt.Errorf("%s is empty; remove it to give this data folder a new name", path)
	}
	return name, nil
}

// capacityShare is the share of the machine, in percent, that runs may use together by default. The rest is for the
// server, its database and the system (architecture.md, "Local driver").
const capacityShare = 80

// capacityOf returns what runs may request together, in MB and millicores; 0 asks for the default.
func capacityOf(memoryMB, millicores int64) (state.Size, error) {
	if memoryMB == 0 {
		machine, err := mem.VirtualMemory()
		if err != nil {
			return state.Size{}, fmt.Errorf("reading the machine's memory: %w", err)
		}
		total := min(machine.Total, limits.OwnMemoryLimit("/"))
		memoryMB = int64(total / limits.Megabyte * capacityShare / 100) //nolint:gosec // a figure in MB fits
	}
	if millicores == 0 {
		// GOMAXPROCS respects a container's CPU quota, NumCPU does not.
		millicores = int64(min(runtime.NumCPU(), runtime.GOMAXPROCS(0))) * 1000 * capacityShare / 100
	}
	return state.Size{Memory: memoryMB, CPU: millicores}, nil
}

// Mode reports how limits are kept, for logs and /readyz.
func (e *Engine) Mode() string { return e.limits.String() }

// Node returns the name of the data folder, which owns this engine's runs.
func (e *Engine) Node() string { return e.node }

func (e *Engine) folder(runID string, attempt int) shim.Folder {
	return shim.AttemptFolder(e.dataDir, runID, attempt)
}

// poke makes the follower look. It never blocks.
func (e *Engine) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// heartbeat records that this node lives. The first one comes before the first run that it could leave behind.
func (e *Engine) heartbeat(ctx context.Context) error {
	if err := e.cfg.Store.Heartbeat(ctx, e.node, e.host); err != nil {
		return fmt.Errorf("recording the heartbeat of this node: %w", err)
	}
	e.beaten.Store(true)
	return nil
}
