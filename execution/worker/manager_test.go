package worker

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/config"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/database"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

var (
	_ Store    = (*state.Manager)(nil)
	_ Notifier = (*database.Notifier)(nil)
	_ Locker   = (*database.Locker)(nil)
)

// testDatabase is a real one with one definition, "d".
type testDatabase struct {
	*state.Manager
	url string
}

func makeDatabase(t *testing.T) testDatabase {
	t.Helper()
	discard := func(c *state.ManagerConfig) { c.Logger = slog.New(slog.DiscardHandler) }
	manager, url := statetest.NewManager(t, discard)
	require.NoError(t, manager.CreateDefinition(t.Context(), state.Definition{DefinitionID: "d", Alias: "d", Image: "i"}))
	require.NoError(t, manager.EnsureWorkers(t.Context(), map[string]map[string]int{
		state.EKSEngine: {config.WorkerSubmit: 1, config.WorkerStatus: 1, config.WorkerRetry: 1},
	}))
	return testDatabase{manager, url}
}

// queue stores a run of the cluster "c".
func (d testDatabase) queue(t *testing.T, id string) {
	t.Helper()
	run := queuedRun(id)
	run.ExecutableID, run.ExecutableType, run.QueuedAt = new("d"), state.ExecutableTypeDefinition, new(time.Now())
	_, created, err := d.CreateRun(t.Context(), run)
	require.NoError(t, err)
	require.True(t, created)
}

func (d testDatabase) awaitStatus(t *testing.T, id string, want state.Status) state.Run {
	t.Helper()
	var run state.Run
	require.Eventually(t, func() bool {
		var err error
		run, err = d.GetRun(t.Context(), id)
		return err == nil && run.Status == want
	}, 2*patience, 5*time.Millisecond, "%s never became %s", id, want)
	return run
}

// serve runs a Supervisor with all its real parts but the engine.
func (d testDatabase) serve(t *testing.T, eng engine.Engine) (stop func()) {
	t.Helper()
	w := makeWorld(t, eng)
	notifier, err := database.NewNotifier(d.url, w.Logger)
	require.NoError(t, err)
	locker, err := database.NewLocker(d.url, w.Logger)
	require.NoError(t, err)
	w.Store, w.Notifier, w.Locker, w.Name = d.Manager, notifier, locker, ""
	w.ClaimLease = time.Minute
	w.SubmitInterval, w.RetryInterval = 100*time.Millisecond, 100*time.Millisecond
	w.Retry = state.RetryPolicy{MaxAttempts: 3}
	s, err := NewSupervisor(w.SupervisorConfig)
	require.NoError(t, err)
	stopNotifier := start(t, notifier.Run)
	stopSupervisor := start(t, s.Run)
	return func() { stopSupervisor(); stopNotifier() }
}

// toyCluster executes runs in no time and counts how often each attempt was
// handed to it.
type toyCluster struct {
	*fakeEngine
	mu     sync.Mutex
	made   map[string]int
	events chan engine.Observation
}

func newToyCluster() *toyCluster {
	c := &toyCluster{fakeEngine: newFakeEngine(), made: map[string]int{}, events: make(chan engine.Observation, 10000)}
	c.execute, c.follow = c.create, c.report
	return c
}

func (c *toyCluster) create(ctx context.Context, s engine.Submission) error {
	attempt := s.Run.Attempt()
	c.mu.Lock()
	c.made[fmt.Sprintf("%s/%d", s.Run.RunID, attempt)]++
	c.mu.Unlock()
	ok, err := s.Accept(ctx, state.Acceptance{Size: state.Size{Memory: 512, CPU: 256}})
	if err != nil || !ok {
		return err
	}
	now, code := time.Now(), int64(0)
	c.events <- engine.Observation{RunID: s.Run.RunID, Attempt: attempt, Status: state.StatusRunning,
		Update: state.RunUpdate{StartedAt: &now}}
	c.events <- engine.Observation{RunID: s.Run.RunID, Attempt: attempt, Status: state.StatusStopped,
		Update: state.RunUpdate{ExitCode: &code, FinishedAt: &now}}
	return nil
}

func (c *toyCluster) report(ctx context.Context, o engine.Observer) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case seen := <-c.events:
			if err := o.Observe(ctx, seen); err != nil {
				c.events <- seen
				return err
			}
		}
	}
}

func TestTwoServersExecuteEachRunOnce(t *testing.T) {
	t.Parallel()
	db, cluster := makeDatabase(t), newToyCluster()
	stopOne, stopOther := db.serve(t, cluster), db.serve(t, cluster)
	const all = 200
	for i := range all {
		db.queue(t, fmt.Sprintf("r%d", i))
	}
	for i := range all {
		run := db.awaitStatus(t, fmt.Sprintf("r%d", i), state.StatusStopped)
		assert.Equal(t, int64(0), *run.ExitCode)
		assert.Equal(t, int64(512), *run.Memory)
	}
	stopOne()
	stopOther()
	assert.Len(t, cluster.made, all)
	for id, n := range cluster.made {
		assert.Equal(t, 1, n, id)
	}
}

func TestARunOfADeadWorkerIsClaimedAgain(t *testing.T) {
	t.Parallel()
	db, cluster := makeDatabase(t), newToyCluster()
	db.queue(t, "r")
	claimed, err := db.ClaimRuns(t.Context(), state.ClaimRequest{EngineKey: keyOf("c"), Worker: "dead", Lease: time.Second, Limit: 1})
	require.NoError(t, err)
	require.Len(t, claimed, 1)
	stop := db.serve(t, cluster)
	db.awaitStatus(t, "r", state.StatusStopped)
	stop()
	assert.Equal(t, map[string]int{"r/1": 1}, cluster.made)
}

func TestARunStoppedWhileItIsHandedOverIsTakenBack(t *testing.T) {
	t.Parallel()
	db, eng, returned := makeDatabase(t), newFakeEngine(), make(chan bool, 1)
	eng.execute = func(ctx context.Context, s engine.Submission) error {
		_, _, err := db.StopRun(ctx, s.Run.RunID, state.ReasonTerminated)
		assert.NoError(t, err)
		ok, err := s.Accept(ctx, state.Acceptance{})
		returned <- ok
		return err
	}
	db.queue(t, "r")
	stop := db.serve(t, eng)
	assert.False(t, <-returned)
	stop()
	run := db.awaitStatus(t, "r", state.StatusStopped)
	assert.Equal(t, state.ReasonTerminated, *run.ExitReason)
}

func TestAFailureOfTheClusterIsRetried(t *testing.T) {
	t.Parallel()
	db, cluster := makeDatabase(t), newToyCluster()
	cluster.execute = func(ctx context.Context, s engine.Submission) error {
		if s.Run.Attempt() > 1 {
			return cluster.create(ctx, s)
		}
		_, err := s.Accept(ctx, state.Acceptance{})
		reason := "node lost"
		cluster.events <- engine.Observation{RunID: s.Run.RunID, Attempt: 1, Status: state.StatusNeedsRetry,
			Update: state.RunUpdate{ExitReason: &reason}}
		return err
	}
	stop := db.serve(t, cluster)
	db.queue(t, "r")
	run := db.awaitStatus(t, "r", state.StatusStopped)
	stop()
	assert.Equal(t, int64(2), run.Attempt())
	assert.Equal(t, int64(0), *run.ExitCode)
}

func TestAWaitingRunHasAReason(t *testing.T) {
	t.Parallel()
	db, eng := makeDatabase(t), newFakeEngine()
	eng.execute = func(context.Context, engine.Submission) error {
		return engine.NotNow{Reason: "The quota is used up."}
	}
	db.queue(t, "r")
	stop := db.serve(t, eng)
	require.Eventually(t, func() bool {
		run, err := db.GetRun(t.Context(), "r")
		return err == nil && run.Status == state.StatusQueued &&
			run.StatusReason != nil && *run.StatusReason == "The quota is used up."
	}, patience, 5*time.Millisecond)
	stop()
}

func TestARunOfAnUnknownClusterHasAReasonAndDelaysNoOther(t *testing.T) {
	t.Parallel()
	db := makeDatabase(t)
	stranded := queuedRun("stranded")
	stranded.ClusterName, stranded.QueuedAt = "nowhere", new(time.Now())
	_, _, err := db.CreateRun(t.Context(), stranded)
	require.NoError(t, err)
	db.queue(t, "r")
	stop := db.serve(t, newToyCluster())
	db.awaitStatus(t, "r", state.StatusStopped)
	require.Eventually(t, func() bool {
		run, err := db.GetRun(t.Context(), "stranded")
		return err == nil && run.Status == state.StatusQueued && run.StatusReason != nil &&
			*run.StatusReason == "There is no cluster named nowhere; the run waits until there is one."
	}, patience, 5*time.Millisecond)
	stop()
}

func TestClaimsAreHandedBackAtTheEnd(t *testing.T) {
	t.Parallel()
	db, eng := makeDatabase(t), newFakeEngine()
	begun, release := make(chan struct{}), make(chan struct{})
	eng.execute = func(context.Context, engine.Submission) error {
		close(begun)
		<-release
		return nil // neither accepted nor refused, as by a call that was cut off
	}
	db.queue(t, "r")
	stop := db.serve(t, eng)
	<-begun
	claimed, err := db.GetRun(t.Context(), "r")
	require.NoError(t, err)
	require.NotNil(t, claimed.ClaimedBy)
	close(release)
	stop()
	run, err := db.GetRun(t.Context(), "r")
	require.NoError(t, err)
	assert.Equal(t, state.StatusQueued, run.Status)
	assert.Nil(t, run.ClaimedBy)
}
