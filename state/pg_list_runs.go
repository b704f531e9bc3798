package state

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
)

// defaultEngines are the engines of the runs that a list shows where it is not
// asked for others.
var defaultEngines = Engines

// exactTotals is the number up to which a total is counted. Counting further
// would read the whole table for every page.
const exactTotals = 10_000

// ListRuns answers a page of runs and how many there are (rest-api.md, Lists).
func (m *Manager) ListRuns(ctx context.Context, o ListOptions) (RunList, error) {
	q, err := newRunQuery(o)
	if err != nil {
		return RunList{}, err
	}
	// The planner cannot know how many runs have a variable, and either plan
	// is ruinous where it guesses wrong; a count tells.
	counted := notCounted
	if len(o.Env) > 0 || q.limit == 0 {
		if counted, err = m.countRuns(ctx, q); err != nil {
			return RunList{}, err
		}
		q.few = counted <= exactTotals && len(o.Env) > 0
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
	list.Total, list.TotalIsEstimate, err = m.totalOfRuns(ctx, q, shown{len(list.Runs), more, counted})
	return list, err
}

// shown is what a page has told about the total.
type shown struct {
	rows int
	// more says that a row follows.
	more bool
	// counted is the result of countRuns, notCounted where it was not needed.
	counted int
}

const notCounted = -1

// totalOfRuns is exact up to exactTotals, and beyond that the planner's
// estimate, but never less than what a client that pages until it has seen
// total rows needs in order to see all.
func (m *Manager) totalOfRuns(ctx context.Context, q *runQuery, s shown) (total int, estimated bool, err error) {
	seen := q.offset + s.rows
	if s.more {
		seen++
	}
	// A place behind the end of the list says nothing of its length.
	least := seen
	if s.rows == 0 {
		least = 0
	}
	if q.exactTotal {
		err := m.db.GetContext(ctx, &total, `SELECT count(*) FROM task`+q.where(), q.args...)
		return max(total, least), false, interpretError(err)
	}
	if ended := q.limit > 0 && !s.more && (s.rows > 0 || q.offset == 0); ended && seen <= exactTotals {
		return seen, false, nil
	}
	if s.counted == notCounted && least <= exactTotals {
		if s.counted, err = m.countRuns(ctx, q); err != nil {
			return 0, false, err
		}
	}
	if total := max(s.counted, least); total <= exactTotals {
		return total, false, nil
	}
	estimate, err := m.estimateRuns(ctx, q)
	return max(estimate, exactTotals+1, seen), true, err
}

// countRuns counts up to exactTotals+1 runs.
func (m *Manager) countRuns(ctx context.Context, q *runQuery) (count int, err error) {
	c := conditions{q.texts, slices.Clone(q.args)}
	limit := c.bind(exactTotals + 1)
	err = m.db.GetContext(ctx, &count,
		`SELECT count(*) FROM (SELECT FROM task`+c.where()+` LIMIT `+limit+`) AS counted`, c.args...)
	return count, interpretError(err)
}

// estimateRuns is how many runs the planner expects.
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
		return 0, fmt.Errorf("the planner's answer cannot be read: %w", err)
	}
	return int(plans[0].Plan.Rows), nil
}

// runQuery is a checked list of runs.
type runQuery struct {
	conditions
	sort          string
	down          bool
	limit, offset int
	exactTotal    bool
	// few says that all matches may be read and sorted.
	few bool
}

func newRunQuery(o ListOptions) (*runQuery, error) {
	limit, err := pageOf(o)
	if err != nil {
		return nil, err
	}
	c, err := runResource.conditions(o)
	if err != nil {
		return nil, err
	}
	if values := o.Filters["engine"]; len(values) == 0 || len(values) == 1 && values[0] == "" {
		f := runResource.filters["engine"]
		if err := f.add(c, "engine", defaultEngines); err != nil {
			return nil, err
		}
	}
	q := &runQuery{conditions: *c, limit: limit, offset: o.Offset, exactTotal: o.ExactTotal}
	q.sort, q.down, err = runResource.order(o)
	return q, err
}

// pageOf checks limit and offset and cuts the limit.
func pageOf(o ListOptions) (limit int, err error) {
	if o.Limit < 0 || o.Offset < 0 {
		return 0, Malformedf("limit and offset must not be negative")
	}
	return min(o.Limit, MaxListLimit), nil
}

// pageSQL reads a page in two steps: the ids of the page's rows, which indexes
// alone can tell, and then those rows. One row more than the limit tells
// whether another page follows.
func (q *runQuery) pageSQL() string {
	return `WITH ` + q.idsSQL() + `
SELECT ` + runColumns + ` FROM task
WHERE task.run_id = ANY(ARRAY(SELECT run_id FROM page))
ORDER BY ` + q.orderBy(q.sort, "task.run_id", true)
}

// pageArgs are the arguments of pageSQL: those of the conditions, then limit
// and offset.
func (q *runQuery) pageArgs() []any { return append(slices.Clone(q.args), q.limit+1, q.offset) }

// orderBy is the order of the list. nullsLast is left out where no value can
// be NULL, because an index gives the downward order without it only.
func (q *runQuery) orderBy(sort, id string, nullsLast bool) string {
	if !q.down {
		return sort + ", " + id // NULLs are last by themselves.
	}
	if nullsLast {
		return sort + " DESC NULLS LAST, " + id + " DESC"
	}
	return sort + " DESC, " + id + " DESC"
}

// idsSQL is the common table expression "page" with the ids of the rows.
//
// Downwards it has two parts, because an index read backwards has the NULLs
// first: the rows that have a value, and, where these end on the page, the
// rows that have none. That saves a second index for each column.
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
	-- Rows with a value that stand before the page are counted only where it has none.
	OFFSET CASE WHEN ` + offset + ` = 0 OR EXISTS (SELECT FROM filled) THEN 0 ELSE GREATEST(0, ` + offset + `
		- (SELECT count(*) FROM task` + q.where(q.sort+" IS NOT NULL") + `)) END))`
}
