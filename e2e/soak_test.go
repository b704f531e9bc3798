package e2e

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state"
)

// soakRuns is the number of runs that each soak test gets acknowledged. `make verify` and `make soak` set more than
// `make test` does.
var soakRuns = flag.Int("soak.runs", 40, "runs that each soak test submits")

const (
	soakClients = 16
	// leastDisturbances is the number of disturbances that each test waits for, however fast the machine is.
	leastDisturbances = 3
)

// soak submits runs from many clients while servers or the database are killed, and accounts for every run.
type soak struct {
	*installation
	definition string
	servers    []*soakServer
	// acknowledged holds the ids of the runs whose creation was answered with 200.
	mu           sync.Mutex
	acknowledged []string
	statuses     map[int]int
	hung         int
	disturbed    atomic.Int64
}

// soakServer is a server that is restarted under the same name.
type soakServer struct {
	name    string
	current atomic.Pointer[server]
}

func newSoak(t *testing.T, dbURL string, names ...string) *soak {
	t.Helper()
	s := &soak{installation: newInstallation(t, dbURL), statuses: map[int]int{}}
	for _, name := range names {
		one := &soakServer{name: name}
		one.current.Store(s.serve(name))
		s.servers = append(s.servers, one)
	}
	s.definition = s.servers[0].current.Load().define("echo $FLOTILLA_RUN_ID >> " + s.marker("ran"))
	return s
}

// restart kills a server and starts it again.
func (s *soak) restart(one *soakServer) {
	one.current.Load().kill()
	one.current.Store(s.start(one.name))
}

// submit lets the clients submit until enough runs are acknowledged. Meanwhile it calls disturb again and again, at least
// leastDisturbances times.
func (s *soak) submit(disturb func(ctx context.Context)) {
	s.t.Helper()
	ctx, enough := context.WithTimeout(s.t.Context(), soakPatience())
	defer enough()
	var group errgroup.Group
	for client := range soakClients {
		group.Go(func() error {
			for request := 0; ctx.Err() == nil; request++ {
				if s.submitOne(ctx, client, request) >= *soakRuns && s.disturbed.Load() >= leastDisturbances {
					enough()
				}
			}
			return nil
		})
	}
	for ctx.Err() == nil {
		disturb(ctx)
		s.disturbed.Add(1)
	}
	require.NoError(s.t, group.Wait())
	require.GreaterOrEqual(s.t, len(s.acknowledged), *soakRuns, "answers were %v", s.statuses)
}

// submitOne submits one run and returns how many runs are acknowledged. Half of the clients send an idempotence key and
// repeat the request until it is answered; the others do not repeat it.
func (s *soak) submitOne(ctx context.Context, client, request int) int {
	body := runRequest()
	insists := client%2 == 0
	if insists {
		body["idempotence_key"] = fmt.Sprintf("soak-%d-%d", client, request)
	}
	for {
		run, status := s.send(body, s.servers[(client+request)%len(s.servers)])
		s.mu.Lock()
		if status == http.StatusOK {
			s.acknowledged = append(s.acknowledged, run)
		}
		s.statuses[status]++
		count := len(s.acknowledged)
		s.mu.Unlock()
		if status == http.StatusOK {
			return count
		}
		select { // the server or its database is away
		case <-ctx.Done():
			return count
		case <-time.After(10 * time.Millisecond):
		}
		if !insists {
			return count
		}
	}
}

// send submits a run to one server and returns status 0 if the server died.
func (s *soak) send(body object, one *soakServer) (run string, status int) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), patience)
	defer cancel()
	var answer created
	url := one.current.Load().url + "/api/v6/task/" + s.definition + "/execute"
	status, err := call(ctx, http.MethodPut, url, body, &answer)
	if ctx.Err() != nil {
		s.mu.Lock()
		s.hung++
		s.mu.Unlock()
	}
	if err != nil {
		return "", 0
	}
	return answer.ID, status
}

// settle waits until all runs are STOPPED and accounts for them.
func (s *soak) settle() {
	s.t.Helper()
	for _, one := range s.servers {
		s.restart(one) // the last disturbance is a crash of every server
	}
	runs := s.awaitRunsFor(soakPatience(), len(s.acknowledged), state.StatusStopped)
	executed := map[string]int{}
	for _, id := range s.lines(s.marker("ran")) {
		executed[id]++
	}
	stored := map[string]bool{}
	for _, run := range runs {
		stored[run.id] = true
		assert.True(s.t, run.code.Valid && run.code.Int64 == 0, "%v", run)
		assert.Equal(s.t, 1, executed[run.id], "executions of %s", run.id)
	}
	for _, id := range s.acknowledged {
		assert.True(s.t, stored[id], "%s was acknowledged but is not stored", id)
	}
	assert.Len(s.t, executed, len(runs), "every executed run is stored")
	assert.Zero(s.t, s.hung, "requests without an answer")
	for status := range s.statuses {
		assert.Contains(s.t, []int{0, http.StatusOK, http.StatusServiceUnavailable}, status, "answers were %v", s.statuses)
	}
	s.t.Logf("%d runs stored, %d acknowledged; answers by status (0: the server died): %v",
		len(runs), len(s.acknowledged), s.statuses)
}

// answered returns how many requests were answered with the status.
func (s *soak) answered(status int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.statuses[status]
}

// soakPatience bounds the submitting, and the waiting for the end, of all runs.
func soakPatience() time.Duration { return patience + time.Duration(*soakRuns)*time.Second }

// pause waits for a random time from least to least+spread, or until ctx ends.
func pause(ctx context.Context, least, spread time.Duration) {
	timer := time.NewTimer(least + rand.N(spread))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func TestSoakServerRestarts(t *testing.T) {
	pg := pgtest.NewServer(t)
	s := newSoak(t, pg.CreateDatabase("soak"), "a")
	s.submit(func(ctx context.Context) {
		pause(ctx, 300*time.Millisecond, time.Second)
		s.restart(s.servers[0])
	})
	s.settle()
}

func TestSoakTwoServers(t *testing.T) {
	pg := pgtest.NewServer(t)
	s := newSoak(t, pg.CreateDatabase("soak"), "a", "b")
	next := 0
	s.submit(func(ctx context.Context) {
		pause(ctx, 200*time.Millisecond, 500*time.Millisecond)
		s.restart(s.servers[next%2])
		next++
	})
	s.settle()
}

func TestSoakPostgresRestarts(t *testing.T) {
	pg := pgtest.NewServer(t, pgtest.Setting("max_connections", strconv.Itoa(200)))
	s := newSoak(t, pg.CreateDatabase("soak"), "a", "b")
	s.submit(func(ctx context.Context) {
		pause(ctx, 500*time.Millisecond, time.Second)
		before := s.answered(http.StatusServiceUnavailable)
		pg.Kill()
		for ctx.Err() == nil && s.answered(http.StatusServiceUnavailable) == before {
			pause(ctx, 100*time.Millisecond, 400*time.Millisecond)
		}
		pg.Start()
	})
	require.Positive(t, s.statuses[http.StatusServiceUnavailable], "no request arrived while the database was away: %v", s.statuses)
	s.settle()
}
