package state_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/lib/pq"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

// seededRuns is how many runs the plans are checked with: enough for the planner to prefer indexes.
const seededRuns = 20_000

// newSeeded returns a database with a history of seededRuns.
func newSeeded(t testing.TB) (url string) {
	t.Helper()
	return pgtest.New(t, pgtest.Template("seeded", func(ctx context.Context, url string) error {
		return statetest.SeedHistory(ctx, url, seededRuns)
	})).URL
}

// plans collects the plans of the queries that a Manager runs, as the server reports them.
type plans struct {
	mu    sync.Mutex
	texts []string
}

// newPlanned returns a Manager of the database at address whose plans are collected.
func newPlanned(t testing.TB, address string) (*state.Manager, *plans) {
	t.Helper()
	parsed, err := url.Parse(address)
	require.NoError(t, err)
	query := parsed.Query()
	query.Set("options", "-c session_preload_libraries=auto_explain -c auto_explain.log_min_duration=0 "+
		"-c auto_explain.log_format=json -c auto_explain.log_level=notice")
	parsed.RawQuery = query.Encode()
	seen := &plans{}
	m, err := state.NewWatchedManager(state.ManagerConfig{
		URL: parsed.String(), Logger: slog.New(slog.DiscardHandler), ARA: statetest.ARA(t),
	}, seen.add)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m, seen
}

func (p *plans) add(notice *pq.Error) {
	if _, plan, ok := strings.Cut(notice.Message, "plan:\n"); ok {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.texts = append(p.texts, plan)
	}
}

// take returns the plans since the last call.
func (p *plans) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	texts := p.texts
	p.texts = nil
	return texts
}

// planNode is a node of a plan, as EXPLAIN (FORMAT JSON) writes it.
type planNode struct {
	NodeType     string     `json:"Node Type"`
	RelationName string     `json:"Relation Name"`
	IndexName    string     `json:"Index Name"`
	Plans        []planNode `json:"Plans"`
}

// visit calls see for the node and all below it.
func (n planNode) visit(see func(planNode)) {
	see(n)
	for _, child := range n.Plans {
		child.visit(see)
	}
}

// requireNoScan fails the test, with the plan, if one of them reads the whole table task.
func requireNoScan(t testing.TB, texts []string) {
	t.Helper()
	require.NotEmpty(t, texts, "no plan was seen")
	for _, text := range scans(t, texts) {
		t.Errorf("table task is read from end to end by:\n%s", text)
	}
}

// indexesOf returns the indexes that plans use.
func indexesOf(t testing.TB, texts []string) (names []string) {
	t.Helper()
	for _, text := range texts {
		var explained struct{ Plan planNode }
		require.NoError(t, json.Unmarshal([]byte(text), &explained), text)
		explained.Plan.visit(func(n planNode) {
			if n.IndexName != "" {
				names = append(names, n.IndexName)
			}
		})
	}
	return names
}

// scans returns those of the plans that read the whole table task.
func scans(t testing.TB, texts []string) (found []string) {
	t.Helper()
	for _, text := range texts {
		var explained struct{ Plan planNode }
		require.NoError(t, json.Unmarshal([]byte(text), &explained), text)
		explained.Plan.visit(func(n planNode) {
			if n.RelationName == "task" && strings.Contains(n.NodeType, "Seq Scan") {
				found = append(found, text)
			}
		})
	}
	return found
}

func TestAScanOfAllRunsIsNoticed(t *testing.T) {
	t.Parallel()
	m, seen := newPlanned(t, newSeeded(t))
	_, err := m.ListRuns(t.Context(), state.ListOptions{Limit: 20, Filters: map[string][]string{"docker_id": {"of no index"}}})
	require.NoError(t, err)
	require.NotEmpty(t, scans(t, seen.take()))
}
