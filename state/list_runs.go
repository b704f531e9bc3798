package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

const (
	// fewMatches is the number up to which all matches of a filter by environment are read and sorted.
	fewMatches = 10_000
	// countTimeout bounds counting for a total. Beyond it the total is an estimate (rest-api.md, Lists).
	countTimeout = 300 * time.Millisecond
	// countConnections bounds the connections that count.
	countConnections = 4
	// countKept is how long the count of a filter is cached.
	countKept = 10 * time.Second
	// maxCounts bounds how many counts are cached.
	maxCounts = 1000
	// estimateMargin makes an estimate err upwards, because clients read the total once and page until they have seen
	// as many rows. It must be at least 1.25, because the planner takes an OR of conditions that exclude each other for
	// overlapping ones, and then estimates up to a quarter too few.
	estimateMargin = 1.4
)

// ListRuns returns a page of runs and how many there are (rest-api.md, Lists).
func (m *Manager) ListRuns(ctx context.Context, o ListOptions) (RunList, error) {
	q, err := newRunQuery(o, m.clock())
	if err != nil {
		return RunList{}, err
	}
	if len(o.Env) > 0 && q.limit > 0 {
		// The planner cannot know how many runs have a variable, and either plan is ruinous if it guesses wrong.
		c := conditions{texts: q.texts, args: slices.Clone(q.args)}
		limit := c.bind(fewMatches + 1)
		var matches int
		err := m.db.GetContext(ctx, &matches,
			`SELECT count(*) FROM (SELECT FROM task`+c.where()+` LIMIT `+limit+`) AS counted`, c.args...)
		if err != nil {
			return RunList{}, interpretError(err)
		}
		q.few = matches <= fewMatches
	}
	list := RunList{Runs: []Run{}}
	more := false
	if q.limit > 0 {
		list.Runs, err = m.readRuns(ctx, func(rows any) error {
			return m.db.SelectContext(ctx, rows, q.pageSQL(), q.pageArgs()...)
		})
		if err != nil {
			return RunList{}, err
		}
		if more = len(list.Runs) > q.limit; more {
			list.Runs = list.Runs[:q.limit]
		}
	}
	list.Total, list.TotalIsEstimate, err = m.totalOfRuns(ctx, q, len(list.Runs), more)
	return list, err
}

// totalOfRuns returns how many runs match, and whether that is an estimate. A client that pages until it has seen total
// rows sees at least the rows of this page, and a row more if more follow.
func (m *Manager) totalOfRuns(ctx context.Context, q *runQuery, rows int, more bool) (total int, estimated bool, err error) {
	least := q.offset + rows
	switch {
	case more:
		least++
	case rows == 0:
		least = 0 // An offset behind the end bounds nothing.
	}
	if q.exactTotal {
		err := m.db.GetContext(ctx, &total, `SELECT count(*) FROM task`+q.where(), q.args...)
		return max(total, least), false, interpretError(err)
	}
	if q.limit > 0 && !more && (rows > 0 || q.offset == 0) {
		return least, false, nil // The page holds the last row.
	}
	count, counted, err := m.countRuns(ctx, q)
	if err != nil || counted {
		return max(count, least), false, err
	}
	estimate, err := m.estimateRuns(ctx, q)
	return max(int(math.Ceil(estimateMargin*float64(estimate))), least), true, err
}

// counts caches the counts of filters, by their text and arguments. The zero value is ready.
type counts struct {
	mu   sync.Mutex
	kept map[string]kept
}

// kept is a cached count. If counting took too long, counted is false.
type kept struct {
	count   int
	counted bool
	at      time.Time
}

// countRuns counts the matches, and reports false if that takes longer than countTimeout.
func (m *Manager) countRuns(ctx context.Context, q *runQuery) (count int, counted bool, err error) {
	key := fmt.Sprintf("%s %q", q.where(), q.args)
	now := m.clock()
	m.counts.mu.Lock()
	k, known := m.counts.kept[key]
	m.counts.mu.Unlock()
	if known && now.Sub(k.at) < countKept {
		return k.count, k.counted, nil
	}
	// The wait for a connection is bounded, too.
	limited, cancel := context.WithTimeout(ctx, 2*countTimeout)
	defer cancel()
	err = m.countDB.GetContext(limited, &count, `SELECT count(*) FROM task`+q.where(), q.args...)
	var pgErr *pq.Error
	late := errors.As(err, &pgErr) && pgErr.Code == pqerror.QueryCanceled || errors.Is(err, context.DeadlineExceeded)
	if err != nil && (!late || ctx.Err() != nil) {
		return 0, false, interpretError(err)
	}
	m.counts.mu.Lock()
	defer m.counts.mu.Unlock()
	if m.counts.kept == nil || len(m.counts.kept) >= maxCounts {
		m.counts.kept = map[string]kept{}
	}
	m.counts.kept[key] = kept{count: count, counted: !late, at: now}
	return count, !late, nil
}

// estimateRuns returns how many runs the planner expects.
func (m *Manager) estimateRuns(ctx context.Context, q *runQuery) (int, error) {
	var raw []byte
	err := m.db.GetContext(ctx, &raw, `EXPLAIN (FORMAT JSON) SELECT FROM task`+q.where(), q.args...)
	if err != nil {
		return 0, interpretError(err)
	}
	var plans []struct {
		Plan struct {
			Rows float64 `json:"Plan Rows"`
		} `json:"Plan"`
	}
	if err := json.Unmarshal(raw, &plans); err != nil || len(plans) != 1 {
		return 0, fmt.Errorf("cannot read the plan: %w", err)
	}
	return int(plans[0].Plan.Rows), nil
}

// runQuery is a list of runs whose options are checked.
type runQuery struct {
	conditions
	sort          string
	down          bool
	limit, offset int
	exactTotal    bool
	// few is set if there are few enough matches to read and sort all.
	few bool
}

func newRunQuery(o ListOptions, now time.Time) (*runQuery, error) {
	limit, err := pageOf(o)
	if err != nil {
		return nil, err
	}
	c, err := runResource.conditions(o, now)
	if err != nil {
		return nil, err
	}
	if values := o.Filters["engine"]; len(values) == 0 || len(values) == 1 && values[0] == "" {
		f := runResource.filters["engine"]
		if err := f.add(c, "engine", Engines); err != nil {
			return nil, err
		}
	}
	q := &runQuery{conditions: *c, limit: limit, offset: o.Offset, exactTotal: o.ExactTotal}
	q.sort, q.down, err = runResource.order(o)
	return q, err
}

// pageOf checks limit and offset, and returns the limit, cut to MaxListLimit.
func pageOf(o ListOptions) (limit int, err error) {
	if o.Limit < 0 || o.Offset < 0 {
		return 0, Malformedf("limit and offset must not be negative")
	}
	return min(o.Limit, MaxListLimit), nil
}

// pageSQL reads a page in two steps: the ids of the page's rows, for which indexes suffice, and then those rows. It
// reads one row more than the limit to find whether another page follows.
func (q *runQuery) pageSQL() string {
	return `WITH ` + q.idsSQL() + `
SELECT ` + runColumns + ` FROM task
WHERE task.run_id = ANY(ARRAY(SELECT run_id FROM page))
ORDER BY ` + q.orderBy(q.sort, "task.run_id", true)
}

// pageArgs returns the arguments of pageSQL: those of the conditions, then limit and offset.
func (q *runQuery) pageArgs() []any { return append(slices.Clone(q.args), q.limit+1, q.offset) }

// orderBy returns the order of the list. nullsLast is false if no value can be NULL, because an index gives the
// downward order only without it.
func (q *runQuery) orderBy(sort, id string, nullsLast bool) string {
	if !q.down {
		return sort + ", " + id // Upwards, NULLs are last.
	}
	if nullsLast {
		return sort + " DESC NULLS LAST, " + id + " DESC"
	}
	return sort + " DESC, " + id + " DESC"
}

// idsSQL returns the common table expression "page" with the ids of the rows.
//
// Downwards it has two parts, because an index read backwards has the NULLs first: the rows that have a value, and, if
// these end on the page, the rows that have none. That saves a second index for each column.
func (q *runQuery) idsSQL() string {
	limit, offset := fmt.Sprintf("$%d", len(q.args)+1), fmt.Sprintf("$%d", len(q.args)+2)
	switch {
	case q.few:
		// OFFSET 0 keeps the planner from reading along the order.
		return `page AS (
	SELECT run_id
	FROM (SELECT task.run_id, ` + q.sort + ` AS sort_key FROM task` + q.where() + ` OFFSET 0) AS hits
	ORDER BY ` + q.orderBy("sort_key", "run_id", true) + ` LIMIT ` + limit + ` OFFSET ` + offset + `)`
	case !q.down || q.sort == runResource.id:
		return `page AS (
	SELECT task.run_id FROM task` + q.where() + `
	ORDER BY ` + q.orderBy(q.sort, runResource.id, false) + ` LIMIT ` + limit + ` OFFSET ` + offset + `)`
	}
	return `filled AS MATERIALIZED (
	SELECT task.run_id FROM task` + q.where(q.sort+" IS NOT NULL") + `
	ORDER BY ` + q.orderBy(q.sort, runResource.id, false) + ` LIMIT ` + limit + ` OFFSET ` + offset + `
), page AS (
	SELECT run_id FROM filled
	UNION ALL
	(SELECT task.run_id FROM task` + q.where(q.sort+" IS NULL") + `
	ORDER BY task.run_id DESC
	LIMIT ` + limit + ` - (SELECT count(*) FROM filled)
	-- Rows with a value that stand before the page are counted only if the page has none.
	OFFSET CASE WHEN ` + offset + ` = 0 OR EXISTS (SELECT FROM filled) THEN 0 ELSE GREATEST(0, ` + offset + `
		- (SELECT count(*) FROM task` + q.where(q.sort+" IS NOT NULL") + `)) END))`
}
