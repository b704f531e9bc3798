package worker

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/metrics/metricstest"
	"github.com/stitchfix/flotilla-os/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Wrap(m)) }

// patience bounds every wait of these tests.
const patience = 10 * time.Second

// fakeEngine executes by a function and keeps nothing of the runs.
type fakeEngine struct {
	engine.Engine
	execute    func(ctx context.Context, s engine.Submission) error
	follow     func(ctx context.Context, o engine.Observer) error
	terminated chan string
}

var _ engine.Engine = (*fakeEngine)(nil)

func newFakeEngine() *fakeEngine { return &fakeEngine{terminated: make(chan string, 100)} }

func (e *fakeEngine) Execute(ctx context.Context, s engine.Submission) error {
	if e.execute != nil {
		return e.execute(ctx, s)
	}
	_, err := s.Accept(ctx, state.Acceptance{})
	return err
}

func (e *fakeEngine) Terminate(_ context.Context, run state.Run) error {
	e.terminated <- run.RunID
	return nil
}

func (e *fakeEngine) Follow(ctx context.Context, o engine.Observer) error {
	if e.follow != nil {
		return e.follow(ctx, o)
	}
	<-ctx.Done()
	return nil
}

// nodeEngine is a fakeEngine on this machine.
type nodeEngine struct{ *fakeEngine }

var _ engine.OnNode = nodeEngine{}

func (nodeEngine) Node() string { return "here" }

// fakeClusters are engines by name; a nil engine is one that cannot be opened.
type fakeClusters struct {
	mu      sync.Mutex
	engines map[string]engine.Engine
	rows    map[string]state.Cluster
	gone    map[string]bool // no longer listed
	dropped []state.EngineKey
}

var _ Clusters = (*fakeClusters)(nil)

func (c *fakeClusters) List(context.Context) ([]state.Cluster, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var listed []state.Cluster
	for name := range c.engines {
		row := c.rows[name]
		row.Name = name
		if !c.gone[name] {
			listed = append(listed, row)
		}
	}
	return listed, nil
}

func (c *fakeClusters) Drop(key state.EngineKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropped = append(c.dropped, key)
}

func (c *fakeClusters) Engine(_ context.Context, key state.EngineKey) (engine.Engine, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := key.Cluster
	if key.Engine != state.EKSEngine {
		return nil, engine.NotNow{Reason: "no engine for " + key.Engine}
	}
	eng, known := c.engines[name]
	switch {
	case !known:
		return nil, state.Missingf("no cluster %s", name)
	case eng == nil:
		return nil, engine.NotNow{Reason: "no driver for " + name}
	}
	return eng, nil
}

func (c *fakeClusters) set(name string, eng engine.Engine) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.engines[name] = eng
}

func (c *fakeClusters) with(change func(c *fakeClusters)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c)
}

// fakeNotifier wakes the subscribers of one process.
type fakeNotifier struct {
	mu    sync.Mutex
	subs  map[chan struct{}]bool
	wakes int
}

var _ Notifier = (*fakeNotifier)(nil)

func (n *fakeNotifier) Wake() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wakes++
	for ch := range n.subs {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

func (n *fakeNotifier) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.wakes
}

func (n *fakeNotifier) Subscribe() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.subs[ch] = true
	return ch, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.subs, ch)
	}
}

// fakeLocker grants every lead and counts the names.
type fakeLocker struct {
	mu  sync.Mutex
	led map[string]int
}

var _ Locker = (*fakeLocker)(nil)

func (l *fakeLocker) Lead(ctx context.Context, name string, fn func(context.Context) error) error {
	for {
		l.mu.Lock()
		l.led[name]++
		l.mu.Unlock()
		_ = fn(ctx)
		if ctx.Err() != nil {
			return nil
		}
	}
}

func (l *fakeLocker) times(name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.led[name]
}

// world is everything that a Supervisor sees.
type world struct {
	SupervisorConfig
	store    *fakeStore
	clusters *fakeClusters
	notifier *fakeNotifier
	locker   *fakeLocker
	metrics  *metricstest.Recorder
}

// makeWorld returns a world with one cluster, "c". It polls so seldom that only
// wake-ups and first looks count.
func makeWorld(t *testing.T, eng engine.Engine) *world {
	t.Helper()
	w := &world{
		store:    newFakeStore(),
		clusters: &fakeClusters{engines: map[string]engine.Engine{"c": eng}, rows: map[string]state.Cluster{}, gone: map[string]bool{}},
		notifier: &fakeNotifier{subs: map[chan struct{}]bool{}},
		locker:   &fakeLocker{led: map[string]int{}},
	}
	w.metrics = metricstest.New(t)
	w.SupervisorConfig = SupervisorConfig{
		Store: w.store, Clusters: w.clusters, Notifier: w.notifier, Locker: w.locker,
		Metrics: w.metrics, Logger: slog.New(slog.DiscardHandler), Clock: time.Now, Name: "me",
		Types:          []state.WorkerType{state.WorkerSubmit, state.WorkerStatus, state.WorkerRetry},
		Engines:        []string{state.EKSEngine},
		SubmitInterval: time.Hour, RetryInterval: time.Hour,
		StatusInterval: 10 * time.Millisecond, ManagerInterval: 10 * time.Millisecond,
		ClaimLease: 15 * time.Second, LostAfter: 30 * time.Minute, Retry: state.RetryPolicy{MaxAttempts: 3},
	}
	return w
}

// keyOf returns the key of a cluster's container jobs.
func keyOf(cluster string) state.EngineKey {
	return state.EngineKey{Cluster: cluster, Engine: state.EKSEngine}
}

// observer returns that of a cluster's container jobs.
func (w *world) observer(cluster string) *observer {
	return &observer{w.tools(), w.store, w.clusters, keyOf(cluster)}
}

// start runs something until the test ends, and waits for its end.
func start(t *testing.T, run func(ctx context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-ended:
				require.NoError(t, err)
			case <-time.After(patience):
				require.FailNow(t, "does not end")
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func queuedRun(id string) state.Run {
	return state.Run{RunID: id, DefinitionID: "d", ClusterName: "c", Status: state.StatusQueued, Engine: state.EKSEngine, Tier: "Tier4"}
}
