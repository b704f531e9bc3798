package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/clients/logs"
	"github.com/stitchfix/flotilla-os/execution/engine"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/testkit"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// recorder is an observer that cannot record some runs.
type recorder struct {
	failing map[string]bool
	mu      sync.Mutex
	stopped []string
}

func (r *recorder) Observe(_ context.Context, seen engine.Observation) error {
	if r.failing[seen.RunID] {
		return errors.New("an odd row")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if seen.Status == state.StatusStopped {
		r.stopped = append(r.stopped, seen.RunID)
	}
	return nil
}

// makeFollower returns a follower that has seen nothing and watches nothing.
func makeFollower(t *testing.T, api http.Handler, active ...state.Run) (*follower, *recorder, *testkit.Clock) {
	t.Helper()
	e, _ := makeEngine(t, api, rows{active: active})
	clock, observer := testkit.NewClock(start), &recorder{failing: map[string]bool{}}
	e.now = clock.Now
	return &follower{
		Engine: e, observer: observer, unknown: map[string]time.Time{}, attempts: newAttempts(func(string) {}, func() {}),
		outages: outages{logger: e.logger, now: e.now},
	}, observer, clock
}

func TestReviewStopsLostRunsAsideFromOneThatFails(t *testing.T) {
	t.Parallel()
	f, observer, clock := makeFollower(t, &apiServer{}, state.Run{RunID: "a"}, state.Run{RunID: "odd"}, state.Run{RunID: "z"})
	observer.failing["odd"] = true
	require.NoError(t, f.review(t.Context()))
	assert.Empty(t, observer.stopped, "the cluster may still show them")
	clock.Advance(f.cfg.LostAfter)
	require.ErrorContains(t, f.review(t.Context()), "stop the lost run odd: an odd row")
	assert.ElementsMatch(t, []string{"a", "z"}, observer.stopped)
}

func TestAJobThatCannotBeAdoptedIsNotLost(t *testing.T) {
	t.Parallel()
	list := &batchv1.JobList{TypeMeta: metav1.TypeMeta{Kind: "JobList", APIVersion: "batch/v1"}}
	for _, name := range []string{"odd", "plain"} {
		list.Items = append(list.Items, batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	var adopted []string
	api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		var body any = list
		switch {
		case r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/odd"):
			w.WriteHeader(http.StatusUnprocessableEntity)
			body = status(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)
		case r.Method == http.MethodPatch:
			adopted = append(adopted, r.URL.Path)
			body = &batchv1.Job{TypeMeta: metav1.TypeMeta{Kind: "Job", APIVersion: "batch/v1"}}
		}
		_ = json.NewEncoder(w).Encode(body)
	})
	f, observer, clock := makeFollower(t, api, state.Run{RunID: "odd"}, state.Run{RunID: "plain"})
	require.NoError(t, f.review(t.Context()))
	assert.Equal(t, []string{"/apis/batch/v1/namespaces/jobs/jobs/plain"}, adopted, "the others are adopted")
	clock.Advance(f.cfg.LostAfter)
	f.attempts.jobSeen(makeJob("plain", "plain"))
	require.NoError(t, f.review(t.Context()))
	assert.Empty(t, observer.stopped, "its Job is there")
}

func TestCloseEndsWhatWasStarted(t *testing.T) {
	t.Parallel()
	api := &apiServer{}
	e, _ := makeEngine(t, api, rows{})
	ended := make(chan error, 1)
	var following sync.WaitGroup
	following.Go(func() { ended <- e.Follow(t.Context(), &recorder{}) })
	require.Eventually(t, func() bool { return api.count("GET /api/v1/namespaces/jobs/pods") > 0 }, time.Minute, time.Millisecond)
	s, begun := e.logStreams.start(podLog{key: logs.Key{RunID: "eks-1", Attempt: 1}, namespace: "jobs", jobName: "eks-1"})
	require.True(t, begun)
	e.Close()
	require.ErrorIs(t, <-ended, errClosed, "its caller did not end it")
	following.Wait()
	select {
	case <-s.done:
	default:
		t.Error("a stream of a log goes on")
	}
	require.ErrorIs(t, e.Follow(t.Context(), &recorder{}), errClosed)
	s, _ = e.logStreams.start(podLog{})
	assert.Nil(t, s)
}

func TestOutagesAreLoggedWhenTheyChange(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	clock := testkit.NewClock(start)
	o := outages{logger: slog.New(slog.NewTextHandler(&log, nil)), now: clock.Now}
	lines := func() int {
		defer log.Reset()
		return strings.Count(log.String(), "\n")
	}
	ctx, cancel := context.WithCancel(t.Context())
	for i := range 100 {
		o.note(ctx, "watch pods", errors.New("refused"))
		o.note(ctx, "watch Jobs", errors.New(strings.Repeat("x", i))) // as with the port of each try
	}
	assert.Equal(t, 2, lines(), "each once")
	clock.Advance(changedAgain)
	o.note(ctx, "watch pods", errors.New("refused"))
	assert.Zero(t, lines(), "nothing changed")
	o.note(ctx, "watch pods", errors.New("forbidden"), "run_id", "eks-1")
	assert.Contains(t, log.String(), "run_id=eks-1")
	assert.Equal(t, 1, lines(), "the error changed")
	o.note(ctx, "watch pods", nil)
	o.note(ctx, "watch pods", nil)
	assert.Equal(t, 1, lines(), "the recovery, once")
	o.note(ctx, "watch pods", errors.New("forbidden"))
	assert.Equal(t, 1, lines(), "another outage")
	cancel()
	o.note(ctx, "watch events", ctx.Err())
	assert.Zero(t, lines(), "the end of following is no failure")
}
