package state_test

import (
	"crypto/md5"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/lib/pq"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

// testCluster is the cluster of the runs of these tests.
const testCluster = "moon"

// testEngines are the engines of these tests, and testKey is the engine of testCluster.
var (
	testEngines = []string{state.EKSEngine}
	testKey     = state.EngineKey{Cluster: testCluster, Engine: state.EKSEngine}
)

// store is a Manager together with its database, for statements that no method of Manager runs.
type store struct {
	*state.Manager
	url string
	db  *sql.DB
}

func newStore(t testing.TB, changes ...func(*state.ManagerConfig)) store {
	t.Helper()
	m, url := statetest.NewManager(t, changes...)
	return store{Manager: m, url: url, db: openDB(t, url)}
}

func openDB(t testing.TB, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// exec runs a statement that must succeed.
func (s store) exec(t testing.TB, text string, args ...any) {
	t.Helper()
	_, err := s.db.ExecContext(t.Context(), text, args...)
	require.NoError(t, err)
}

// ask returns the one value that a query reads.
func ask[T any](t testing.TB, s store, text string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, s.db.QueryRowContext(t.Context(), text, args...).Scan(&v))
	return v
}

// definition stores a definition with this id.
func (s store) definition(t testing.TB, id string) {
	t.Helper()
	s.exec(t, `INSERT INTO task_def (definition_id, alias, image, group_name, memory)
		VALUES ($1, $1, 'alpine:3', 'group', 512) ON CONFLICT DO NOTHING`, id)
}

var runNumber atomic.Int64

func md5Of(command string) *string { return new(fmt.Sprintf("%x", md5.Sum([]byte(command)))) }

// makeRun returns a run of definition "def" that CreateRun accepts, with the changes.
func makeRun(changes ...func(*state.Run)) state.Run {
	const command = "echo hello"
	r := state.Run{
		RunID:        fmt.Sprintf("eks-%06d", runNumber.Add(1)),
		DefinitionID: "def", Alias: "def", Image: "alpine:3", ClusterName: testCluster,
		GroupName: "group", User: "somebody", TaskType: state.DefaultTaskType,
		Env:     state.EnvList{{Name: "A", Value: "1"}},
		Command: new(command), CommandHash: md5Of(command),
		Engine: state.EKSEngine, NodeLifecycle: new(state.SpotLifecycle),
		ExecutableID: new("def"), ExecutableType: state.ExecutableTypeDefinition,
		ActiveDeadlineSeconds: new(int64(3600)), Description: "def", Tier: "Tier1",
	}
	for _, change := range changes {
		change(&r)
	}
	return r
}

// run stores a run with its definition, and sets its status directly.
func (s store) run(t testing.TB, status state.Status, changes ...func(*state.Run)) state.Run {
	t.Helper()
	r := makeRun(changes...)
	s.definition(t, r.DefinitionID)
	r, created, err := s.CreateRun(t.Context(), r)
	require.NoError(t, err)
	require.True(t, created)
	s.force(t, r.RunID, `status = $2`, status)
	return s.get(t, r.RunID)
}

// force sets columns of a run to values that no method would set.
func (s store) force(t testing.TB, runID, set string, args ...any) {
	t.Helper()
	s.exec(t, `UPDATE task SET `+set+` WHERE run_id = $1`, append([]any{runID}, args...)...)
}

func (s store) get(t testing.TB, runID string) state.Run {
	t.Helper()
	r, err := s.GetRun(t.Context(), runID)
	require.NoError(t, err)
	return r
}

// claim claims one run for worker "w", and fails the test unless it is the given one.
func (s store) claim(t testing.TB, runID string) state.Run {
	t.Helper()
	runs, err := s.ClaimRuns(t.Context(), state.ClaimRequest{
		EngineKey: testKey, Worker: "w", Lease: time.Minute, Limit: 1,
	})
	require.NoError(t, err)
	require.Len(t, runs, 1)
	require.Equal(t, runID, runs[0].RunID)
	return runs[0]
}

// ids returns the ids of runs, in order.
func ids(runs []state.Run) []string {
	out := []string{}
	for _, r := range runs {
		out = append(out, r.RunID)
	}
	return out
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Wrap(m)) }

func TestCheckAcceptsAMigratedDatabase(t *testing.T) {
	t.Parallel()
	m, _ := statetest.NewManager(t)
	require.NoError(t, m.Check(t.Context()))
	require.NoError(t, m.Check(t.Context()))
}

// incompressible returns a text of n characters that stays long in an index.
func incompressible(n int) string {
	random := rand.New(rand.NewPCG(1, 2))
	text := make([]byte, n)
	for i := range text {
		text[i] = byte('!' + random.IntN(90))
	}
	return string(text)
}
