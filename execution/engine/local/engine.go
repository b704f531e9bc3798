package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stitchfix/flotilla-os/execution/adapter"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
)

// Sizer decides what a run gets (execution/adapter).
type Sizer interface {
	Resources(ctx context.Context, executable state.Executable, run state.Run) (adapter.Resources, error)
}

// Store is what the engine needs of the runs' rows.
type Store interface {
	// CommitStart records the intent to start a PENDING run of this node; false where it is not ours to start.
	CommitStart(ctx context.Context, runID, node string) (bool, error)
	// ReturnRun puts a run that was never started back in the queue.
	ReturnRun(ctx context.Context, runID, node string) (bool, error)
	// ActiveRuns pages through the PENDING and RUNNING runs of a cluster and node by run id.
	ActiveRuns(ctx context.Context, cluster, node, after string, limit int) ([]state.Run, error)
	// StoppedAmong answers which of the runs are STOPPED, or gone.
	StoppedAmong(ctx context.Context, runIDs []string) ([]string, error)
	// Heartbeat says that a node is alive.
	Heartbeat(ctx context.Context, node, host string) error
}

// Config is what an Engine is made of.
type Config struct {
	ClusterName string
	// DataDir holds the runs' folders; made where it does not exist.
	DataDir string
	// MemoryMB and CPUMillicores are what runs may request together; 0 means 80 % of the machine.
	MemoryMB, CPUMillicores int64
	LimitMode               Mode
	// ContainerRuntime is "docker" or "podman", by name or path, to execute runs in their images; empty or "none" not to.
	ContainerRuntime string
	// TerminateGrace lies between SIGTERM and SIGKILL.
	TerminateGrace time.Duration
	// LogRetention is how long the folder of an ended run stays, its log included; 0 keeps it.
	LogRetention time.Duration
	Sizer        Sizer
	Store        Store
	Logger       *slog.Logger
	// Program is the binary whose command "shim" is ours; empty means this very program.
	Program string
	Clock   func() time.Time
}

// Engine executes the runs of one local cluster as processes of this machine.
type Engine struct {
	cfg       Config
	dataDir   string
	node      string
	host      string
	limits    Limits
	admission *admission
	// driving: this process holds the folder's lock and follows. Others leave what they accept in the incoming folder.
	driving atomic.Bool
	wake    chan struct{}
	// starts are runs that were committed as started by Execute; the follower takes them from here.
	startsMu sync.Mutex
	starts   []ticket
	shims    shims
	// relist asks the follower to learn from the database what it may have missed.
	relist atomic.Bool
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
		cfg.Program = ownProgram
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	dataDir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("local engine: %w", err)
	}
	for _, dir := range []string{dataDir, filepath.Join(dataDir, "runs"), filepath.Join(dataDir, incomingFolder)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("local engine: making the data folder: %w", err)
		}
	}
	node, err := nodeOf(dataDir)
	if err != nil {
		return nil, fmt.Errorf("local engine: %w", err)
	}
	limits, err := ProbeLimits(ProbeConfig{Mode: cfg.LimitMode, Name: cgroupParentName(node)})
	if err != nil {
		return nil, fmt.Errorf("local engine: %w", err)
	}
	capacity, err := capacityOf(cfg.MemoryMB, cfg.CPUMillicores)
	if err != nil {
		return nil, fmt.Errorf("local engine: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("local engine: %w", err)
	}
	cfg.Logger.Info("local engine ready", "cluster", cfg.ClusterName, "node", node, "limit_mode", limits.String(),
		"capacity_memory_mb", capacity.memory, "capacity_cpu_millicores", capacity.cpu)
	return &Engine{
		cfg: cfg, dataDir: dataDir, node: node, host: host, limits: limits,
		admission: newAdmission(capacity), wake: make(chan struct{}, 1),
		shims: shims{program: cfg.Program},
	}, nil
}

// Mode says how limits are kept, for logs and /readyz.
func (e *Engine) Mode() string { return e.limits.String() }

// Node names the data folder that owns this engine's runs.
func (e *Engine) Node() string { return e.node }

func (e *Engine) folder(runID string, attempt int) Folder {
	return AttemptFolder(e.dataDir, runID, attempt)
}

// poke makes the follower look; it never blocks.
func (e *Engine) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// heartbeat says that we live; the first one comes before the first run that we could leave behind.
func (e *Engine) heartbeat(ctx context.Context) error {
	if err := e.cfg.Store.Heartbeat(ctx, e.node, e.host); err != nil {
		return fmt.Errorf("heartbeat of this node: %w", err)
	}
	e.beaten.Store(true)
	return nil
}
