//go:build kube

package e2e

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state"
)

var scaleRuns = flag.Int("scale.runs", 10_000, "runs that BenchmarkKubeScale submits at once")

// The goals of the benchmark.
const (
	mostRequests = 5.0
	mostDelay    = 2 * time.Second
	mostMemory   = 300 // MB
)

// heldScheduler is the name of a scheduler that does not exist. Pods that ask for it wait until the benchmark binds them.
const heldScheduler = "held-by-benchmark"

// scalePatience bounds each phase of the benchmark.
const scalePatience = 30 * time.Minute

// BenchmarkKubeScale submits runs to a cluster of simulated nodes, lets all of them wait there at once, and then lets
// them run and end. The API server counts the requests: only Flotilla makes requests as a service account.
func BenchmarkKubeScale(b *testing.B) {
	runs := *scaleRuns
	// The held scheduler keeps the speed of the simulated nodes out of the measurement.
	s := newKubeSiteOn(b, pgtest.NewServer(b).CreateDatabase("kube"), "EKS_SCHEDULER_NAME="+heldScheduler, "TERMINATE_GRACE_SECONDS=30", "IMAGE_PULL_DEADLINE=2h")
	s.recordMoves()
	server := s.serve("a")
	idle := residentMB(b, server.cmd.Process.Pid)
	definition := server.define("true")
	requests := s.requestsOfAccounts()
	b.ResetTimer()

	began := time.Now()
	s.submit(server, definition, runs)
	submitted := time.Since(began)
	active := memoryPeak(b, server, func() {
		s.awaitCount("Jobs created", runs, `SELECT count(*) FROM move WHERE status = 'PENDING'`)
	})
	created := s.lastMove(state.StatusPending).Sub(began)
	s.awaitPods(runs)
	active = max(active, residentMB(b, server.cmd.Process.Pid))

	released := time.Now()
	peak := memoryPeak(b, server, func() {
		s.bindAll()
		s.awaitCount("runs STOPPED", runs, `SELECT count(*) FROM task WHERE status = 'STOPPED'`)
	})
	stopped := s.lastMove(state.StatusStopped).Sub(released)
	total := s.requestsWhenSettled() - requests
	b.StopTimer()

	s.assertEnds(runs)
	perRun := float64(total) / float64(runs)
	sinceSeen, sinceEnd := s.delays()
	rate := float64(runs) / created.Seconds()
	slowest := percentile(sinceSeen, 99)
	for _, r := range []pgtest.Result{
		{What: "runs/s from submit to Job created", Measured: fmt.Sprintf("%.0f", rate),
			Reference: fmt.Sprintf("%d runs acknowledged after %v", runs, submitted.Round(time.Millisecond))},
		{What: "all runs STOPPED after their pods got nodes", Measured: stopped.Round(time.Millisecond).String()},
		{What: "API requests per run over its life", Measured: fmt.Sprintf("%.2f", perRun),
			Goal: fmt.Sprintf("<= %.0f", mostRequests), Missed: perRun > mostRequests},
		{What: "status delay, p50", Measured: ms(percentile(sinceSeen, 50)),
			Reference: "since the end, known to the second: " + ms(percentile(sinceEnd, 50))},
		{What: "status delay, p99", Measured: ms(slowest), Goal: "< " + mostDelay.String(), Missed: slowest >= mostDelay,
			Reference: "since the end, known to the second: " + ms(percentile(sinceEnd, 99))},
		{What: "server memory with all runs active", Measured: fmt.Sprintf("%.0f MB", active),
			Goal: fmt.Sprintf("< %d MB", mostMemory), Missed: active >= mostMemory, Reference: fmt.Sprintf("idle: %.0f MB", idle)},
		{What: "server memory while they end, at most", Measured: fmt.Sprintf("%.0f MB", peak),
			Goal: fmt.Sprintf("< %d MB", mostMemory), Missed: peak >= mostMemory},
	} {
		r.Report(b)
	}
	b.ReportMetric(rate, "runs/s")
	b.ReportMetric(perRun, "requests/run")
	b.ReportMetric(float64(slowest.Milliseconds()), "p99-ms")
	b.ReportMetric(peak, "MB")
	assert.LessOrEqual(b, perRun, mostRequests, "API requests per run")
}

// recordMoves makes the database store when each run becomes PENDING and STOPPED.
func (s *kubeSite) recordMoves() {
	s.t.Helper()
	s.serve("schema").kill()
	s.exec(`CREATE TABLE move (run_id text, status text, at timestamptz)`)
	s.exec(`CREATE FUNCTION note_move() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO move VALUES (NEW.run_id, NEW.status, clock_timestamp()); RETURN NULL; END $$`)
	s.exec(`CREATE TRIGGER note_move AFTER UPDATE ON task FOR EACH ROW
		WHEN (NEW.status IN ('PENDING', 'STOPPED') AND OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION note_move()`)
}

func (s *kubeSite) lastMove(to state.Status) time.Time {
	s.t.Helper()
	var at time.Time
	require.NoError(s.t, s.db.QueryRowContext(s.t.Context(), `SELECT max(at) FROM move WHERE status = $1`, string(to)).Scan(&at))
	return at
}

// submit submits all runs from many clients at once.
func (s *kubeSite) submit(server *server, definition string, runs int) {
	s.t.Helper()
	var group errgroup.Group
	group.SetLimit(32)
	for range runs {
		group.Go(func() error {
			status, err := server.call(http.MethodPut, "/api/v6/task/"+definition+"/execute", runRequest(), nil)
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("status %d", status)
			}
			return err
		})
	}
	require.NoError(s.t, group.Wait())
}

func (s *kubeSite) awaitCount(what string, wanted int, query string) {
	s.t.Helper()
	count := 0
	require.Eventually(s.t, func() bool {
		err := s.db.QueryRowContext(s.t.Context(), query).Scan(&count)
		return err == nil && count >= wanted
	}, scalePatience, 200*time.Millisecond, "%s: %d of %d", what, &count, wanted)
}

// awaitPods waits until every Job has a pod.
func (s *kubeSite) awaitPods(wanted int) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return s.seen.withPods() >= wanted }, scalePatience, 200*time.Millisecond)
}

// bindAll binds the waiting pods to the nodes in turn.
func (s *kubeSite) bindAll() {
	s.t.Helper()
	nodes, err := s.admin.Client.CoreV1().Nodes().List(s.t.Context(), metav1.ListOptions{})
	require.NoError(s.t, err)
	require.NotEmpty(s.t, nodes.Items)
	pods, err := s.admin.Client.CoreV1().Pods(s.namespace).List(s.t.Context(), metav1.ListOptions{})
	require.NoError(s.t, err)
	group, ctx := errgroup.WithContext(s.t.Context())
	group.SetLimit(16)
	for i := range pods.Items {
		pod := pods.Items[i].ObjectMeta
		node := nodes.Items[i%len(nodes.Items)].Name
		group.Go(func() error {
			return s.admin.Client.CoreV1().Pods(s.namespace).Bind(ctx, &corev1.Binding{
				ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID},
				Target:     corev1.ObjectReference{Kind: "Node", Name: node},
			}, metav1.CreateOptions{})
		})
	}
	require.NoError(s.t, group.Wait())
}

// requestsOfAccounts returns the number of requests of service accounts that the API server has served. The cluster's own
// parts authenticate by certificates. Requests for logs are counted apart; only the server makes any.
func (s *kubeSite) requestsOfAccounts() int {
	s.t.Helper()
	page, err := s.admin.Client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(s.t.Context())
	require.NoError(s.t, err)
	total := 0.0
	for line := range strings.Lines(string(page)) {
		served := strings.HasPrefix(line, `apiserver_flowcontrol_dispatched_requests_total{flow_schema="service-accounts"`)
		logs := strings.HasPrefix(line, "apiserver_request_total{") && strings.Contains(line, `resource="pods"`) &&
			strings.Contains(line, `subresource="log"`)
		if served || logs {
			value, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
			require.NoError(s.t, err)
			total += value
		}
	}
	return int(total)
}

// requestsWhenSettled waits until the server makes no further requests and returns their number.
func (s *kubeSite) requestsWhenSettled() int {
	s.t.Helper()
	const few, quiet = 5, 10 * time.Second
	for last := s.requestsOfAccounts(); ; {
		pass(s.t.Context(), quiet)
		now := s.requestsOfAccounts()
		if now-last <= few {
			return now
		}
		last = now
	}
}

// assertEnds checks how the runs ended and that each had one Job and one pod.
func (s *kubeSite) assertEnds(runs int) {
	s.t.Helper()
	all, err := s.rows(s.t.Context())
	require.NoError(s.t, err)
	ids := make([]string, 0, runs)
	wrong := 0
	for _, r := range all {
		ids = append(ids, r.id)
		if r.status != string(state.StatusStopped) || !r.code.Valid || r.code.Int64 != 0 || r.attempt.Int64 > 1 {
			wrong++
		}
	}
	assert.Len(s.t, ids, runs)
	assert.Zero(s.t, wrong, "runs with a wrong end")
	s.seen.onceEach(s.t, ids...)
}

// delays returns the times until a run's row was STOPPED, since the benchmark's own watch showed the end of its pod, and
// since that end. The time of the end has whole seconds, so the latter delays are up to one second too long.
func (s *kubeSite) delays() (sinceSeen, sinceEnd []time.Duration) {
	s.t.Helper()
	found, err := s.db.QueryContext(s.t.Context(),
		`SELECT run_id, at, finished_at FROM move JOIN task USING (run_id) WHERE move.status = 'STOPPED'`)
	require.NoError(s.t, err)
	defer func() { _ = found.Close() }()
	for found.Next() {
		var run string
		var at, finished time.Time
		require.NoError(s.t, found.Scan(&run, &at, &finished))
		sinceSeen = append(sinceSeen, at.Sub(s.seen.endedAt(run)).Round(time.Millisecond))
		sinceEnd = append(sinceEnd, at.Sub(finished).Round(time.Millisecond))
	}
	require.NoError(s.t, found.Err())
	return sinceSeen, sinceEnd
}

// memoryPeak returns the largest resident memory of a server, in MB, while work runs.
func memoryPeak(b *testing.B, server *server, work func()) float64 {
	b.Helper()
	ctx, done := context.WithCancel(b.Context())
	defer done()
	pid, peak := server.cmd.Process.Pid, 0.0
	var group errgroup.Group
	group.Go(func() error {
		for pass(ctx, time.Second); ctx.Err() == nil; pass(ctx, time.Second) {
			peak = max(peak, residentMB(b, pid))
		}
		return nil
	})
	work()
	done()
	require.NoError(b, group.Wait())
	return max(peak, residentMB(b, pid))
}
