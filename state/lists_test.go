package state_test

import (
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/state"
	"github.com/stitchfix/flotilla-os/testkit"
)

// insertRow inserts a row of table task from columns and values.
func (s store) insertRow(t testing.TB, runID string, row map[string]any) {
	t.Helper()
	names, places, args := []string{"run_id"}, []string{"$1"}, []any{runID}
	for _, name := range slices.Sorted(maps.Keys(row)) {
		args = append(args, row[name])
		names = append(names, `"`+name+`"`)
		places = append(places, fmt.Sprintf("$%d", len(args)))
	}
	s.exec(t, `INSERT INTO task (`+strings.Join(names, ", ")+`) VALUES (`+strings.Join(places, ", ")+`)`, args...)
}

// runIDs returns the ids of a page, and its total.
func (s store) runIDs(t testing.TB, o state.ListOptions) ([]string, int) {
	t.Helper()
	if o.Limit == 0 {
		o.Limit = 100
	}
	list, err := s.ListRuns(t.Context(), o)
	require.NoError(t, err)
	ids := []string{}
	for _, run := range list.Runs {
		ids = append(ids, run.RunID)
	}
	return ids, list.Total
}

func TestRunsAreFilteredByColumns(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	at := func(hour int) time.Time { return time.Date(2026, 5, 4, hour, 0, 0, 0, time.UTC) }
	s.insertRow(t, "1", map[string]any{
		"alias": "my_job%", "image": "repo/Image:1", "command": `echo 'a' \ b`, "group_name": "team_a", "exit_reason": "OOMKilled",
		"status": "STOPPED", "exit_code": 137, "queued_at": at(1), "started_at": at(2), "finished_at": at(3), "cluster_name": "sun",
		"user": "me", "requires_docker": true, "tier": "Tier1", "memory": 512, "definition_id": "d1",
	})
	s.insertRow(t, "2", map[string]any{
		"alias": "myXjob", "image": "repo/image:2", "status": "QUEUED", "queued_at": at(4), "cluster_name": "moon",
		"definition_id": "d2", "group_name": "teamXa", "memory": 1024,
	})
	s.insertRow(t, "3", map[string]any{"engine": "eks-spark", "status": "RUNNING", "queued_at": at(5), "definition_id": "d3"})
	s.insertRow(t, "4", map[string]any{"engine": "ecs", "status": "STOPPED", "definition_id": "d1"})
	for name, c := range map[string]struct {
		filters map[string][]string
		want    []string
	}{
		"without an engine: those of both engines": {nil, []string{"1", "2", "3"}},
		"one engine":                                 {map[string][]string{"engine": {"eks-spark"}}, []string{"3"}},
		"a retired engine":                           {map[string][]string{"engine": {"ecs"}}, []string{"4"}},
		"an empty engine is none":                    {map[string][]string{"engine": {""}}, []string{"1", "2", "3"}},
		"one value is ignored when empty":            {map[string][]string{"started_at_since": {""}, "memory": {""}}, []string{"1", "2", "3"}},
		"a substring":                                {map[string][]string{"image": {"repo/"}}, []string{"1", "2"}},
		"a substring minds the case":                 {map[string][]string{"image": {"Image"}}, []string{"1"}},
		"an underscore is itself":                    {map[string][]string{"alias": {"y_j"}}, []string{"1"}},
		"a percent sign is itself":                   {map[string][]string{"alias": {"%"}}, []string{"1"}},
		"a backslash is itself":                      {map[string][]string{"command": {`\`}}, []string{"1"}},
		"a quote is itself":                          {map[string][]string{"command": {`'; drop table task; --`}}, []string{}},
		"a group by a part of it":                    {map[string][]string{"group_name": {"m_a"}}, []string{"1"}},
		"a reason by a part of it":                   {map[string][]string{"exit_reason": {"Killed"}}, []string{"1"}},
		"several values match exactly":               {map[string][]string{"alias": {"my_job", "myXjob"}}, []string{"2"}},
		"other texts match exactly":                  {map[string][]string{"cluster_name": {"su"}}, []string{}},
		"several of a text":                          {map[string][]string{"cluster_name": {"sun", "moon", "mars"}}, []string{"1", "2"}},
		"a number":                                   {map[string][]string{"memory": {"512"}}, []string{"1"}},
		"several numbers":                            {map[string][]string{"memory": {"512", "1024", "-5"}}, []string{"1", "2"}},
		"a boolean":                                  {map[string][]string{"requires_docker": {"true"}}, []string{"1"}},
		"a NULL that reads as false":                 {map[string][]string{"requires_docker": {"false"}}, []string{"2", "3"}},
		"a NULL that reads as a tier":                {map[string][]string{"tier": {"Tier4"}}, []string{"2", "3"}},
		"a column that is a word of SQL":             {map[string][]string{"user": {"me"}}, []string{"1"}},
		"a status":                                   {map[string][]string{"status": {"RUNNING"}}, []string{"3"}},
		"several statuses":                           {map[string][]string{"status": {"RUNNING", "QUEUED"}}, []string{"2", "3"}},
		"since, exclusive":                           {map[string][]string{"queued_at_since": {"2026-05-04T01:00:00Z"}}, []string{"2", "3"}},
		"until, exclusive":                           {map[string][]string{"queued_at_until": {"2026-05-04T04:00:00.000Z"}}, []string{"1"}},
		"between, one of them with a zone":           {map[string][]string{"queued_at_since": {"2026-05-04 00:30"}, "queued_at_until": {"2026-05-04T06:30:00+02:00"}}, []string{"1", "2"}},
		"since a day":                                {map[string][]string{"queued_at_since": {"2026-05-04"}}, []string{"1", "2", "3"}},
		"at a time":                                  {map[string][]string{"finished_at": {"2026-05-04T03:00:00"}}, []string{"1"}},
		"at one of several times":                    {map[string][]string{"finished_at": {"2026-05-04T03:00:00", "2020-01-01"}}, []string{"1"}},
		"two columns":                                {map[string][]string{"cluster_name": {"sun"}, "memory": {"1024"}}, []string{}},
		"a definition":                               {map[string][]string{"definition_id": {"d1"}}, []string{"1"}},
		"a description that is the alias by default": {map[string][]string{"description": {"myXjob"}}, []string{"2"}},
	} {
		ids, total := s.runIDs(t, state.ListOptions{Filters: c.filters, SortBy: "run_id"})
		assert.Equal(t, c.want, ids, name)
		assert.Equal(t, len(c.want), total, name)
	}
}

func TestABadListIsMalformed(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	long := strings.Repeat("x", 1<<20)
	for name, o := range map[string]state.ListOptions{
		"an unknown filter":           {Filters: map[string][]string{"nope": {"x"}}},
		"a filter in SQL":             {Filters: map[string][]string{"run_id; drop table task": {"x"}}},
		"a filter by JSON":            {Filters: map[string][]string{"env": {"x"}}},
		"a filter by what is no time": {Filters: map[string][]string{"memory_since": {"2026-01-01"}}},
		"a bound without a column":    {Filters: map[string][]string{"_since": {"2026-01-01"}}},
		"a long filter":               {Filters: map[string][]string{long: {"x"}}},
		"a filter with NUL":           {Filters: map[string][]string{"a\x00": {"x"}}},
		"NUL in a text":               {Filters: map[string][]string{"cluster_name": {"a\x00"}}},
		"NUL in a substring":          {Filters: map[string][]string{"alias": {"a\x00"}}},
		"broken UTF-8":                {Filters: map[string][]string{"alias": {"a\xff"}}},
		"no number":                   {Filters: map[string][]string{"memory": {"1.5"}}},
		"a huge number":               {Filters: map[string][]string{"memory": {"99999999999"}}},
		"an absurd number":            {Filters: map[string][]string{"exit_code": {strings.Repeat("9", 1000)}}},
		"one bad number of several":   {Filters: map[string][]string{"memory": {"1", ""}}},
		"no boolean":                  {Filters: map[string][]string{"requires_docker": {"maybe"}}},
		"no time":                     {Filters: map[string][]string{"queued_at_since": {"soon"}}},
		"two bounds":                  {Filters: map[string][]string{"queued_at_since": {"2026-01-01", "2026-01-02"}}},
		"an unknown status":           {Filters: map[string][]string{"status": {"DONE"}}},
		"a status in lower case":      {Filters: map[string][]string{"status": {"running"}}},
		"one bad status of several":   {Filters: map[string][]string{"status": {"RUNNING", long}}},
		"an unknown order":            {Order: "down"},
		"an unknown sort":             {SortBy: "command"},
		"a sort in SQL":               {SortBy: "run_id; drop table task"},
		"a negative limit":            {Limit: -1},
		"a negative offset":           {Offset: -1},
		"NUL in the environment":      {Env: []state.EnvVar{{Name: "A", Value: "\x00"}}},
		"broken UTF-8 in environment": {Env: []state.EnvVar{{Name: "\xff", Value: "a"}}},
	} {
		var malformed state.MalformedInput
		_, err := s.ListRuns(t.Context(), o)
		require.ErrorAs(t, err, &malformed, name)
		assert.Less(t, len(malformed.Error()), 2000, name)
	}
	_, err := s.ListRuns(t.Context(), state.ListOptions{Filters: map[string][]string{"nope": {"x"}}})
	assert.ErrorContains(t, err, "cluster_name")
	assert.ErrorContains(t, err, "queued_at_since")
}

// Without this test only users would find a filter whose column the table lacks.
func TestEveryFilterAndEverySortIsAColumn(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for table, list := range map[string]func(state.ListOptions) error{
		"task":     func(o state.ListOptions) error { _, err := s.ListRuns(t.Context(), o); return err },
		"task_def": func(o state.ListOptions) error { _, err := s.ListDefinitions(t.Context(), o); return err },
		"template": func(o state.ListOptions) error { _, err := s.ListTemplates(t.Context(), o); return err },
	} {
		rows, err := s.db.QueryContext(t.Context(), `
			SELECT column_name, data_type FROM information_schema.columns WHERE table_name = $1 AND data_type <> 'jsonb'`, table)
		require.NoError(t, err)
		for column, typ := range scanPairs(t, rows) {
			value := map[string]string{
				"integer": "1", "boolean": "true", "timestamp with time zone": "2026-01-01",
			}[typ]
			if value == "" {
				value = "STOPPED"
			}
			for _, values := range [][]string{{value}, {value, value}} {
				assert.NoError(t, list(state.ListOptions{Limit: 1, Filters: map[string][]string{column: values}}), "%s.%s", table, column)
			}
		}
	}
	for _, sortBy := range []string{"alias", "image", "group_name", "memory"} {
		for _, order := range []string{"asc", "desc"} {
			_, err := s.ListDefinitions(t.Context(), state.ListOptions{Limit: 1, SortBy: sortBy, Order: order})
			assert.NoError(t, err)
		}
	}
}

func scanPairs(t testing.TB, rows *sql.Rows) map[string]string {
	t.Helper()
	pairs := map[string]string{}
	for rows.Next() {
		var key, value string
		require.NoError(t, rows.Scan(&key, &value))
		pairs[key] = value
	}
	require.NoError(t, rows.Err())
	return pairs
}

func TestRunsAreFilteredByEnvironment(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.insertRow(t, "1", map[string]any{"group_name": "b", "env": `[{"name": "A", "value": "1"}, {"name": "B", "value": "x|y"}]`})
	s.insertRow(t, "2", map[string]any{"group_name": "a", "env": `[{"name": "A", "value": "1"}]`})
	s.insertRow(t, "3", map[string]any{"env": `null`})
	s.insertRow(t, "4", map[string]any{"env": nil})
	for name, c := range map[string]struct {
		env  []state.EnvVar
		want []string
	}{
		"one variable":                  {[]state.EnvVar{{Name: "A", Value: "1"}}, []string{"2", "1"}},
		"two variables":                 {[]state.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "x|y"}}, []string{"1"}},
		"the value of another variable": {[]state.EnvVar{{Name: "A", Value: "x|y"}}, []string{}},
		"quotes and brackets":           {[]state.EnvVar{{Name: `"}]`, Value: `'; --`}}, []string{}},
	} {
		ids, total := s.runIDs(t, state.ListOptions{Env: c.env})
		assert.Equal(t, c.want, ids, name)
		assert.Equal(t, len(c.want), total, name)
		slices.Reverse(ids)
		down, _ := s.runIDs(t, state.ListOptions{Env: c.env, Order: "desc"})
		assert.Equal(t, ids, down, name)
	}
}

// The pages of every order, in steps that do not divide the number of rows, make the list that one query reads.
func TestPagesNeitherRepeatNorSkipRows(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.exec(t, `
		INSERT INTO task (run_id, group_name, cluster_name, status, queued_at, started_at, finished_at)
		SELECT 'r' || i, CASE WHEN i % 3 > 0 THEN 'g' || i % 5 END, 'c' || i % 2,
			CASE WHEN i % 7 > 0 THEN 'STOPPED' ELSE 'QUEUED' END,
			'2026-01-01'::timestamptz + i / 4 * interval '1 minute',
			CASE WHEN i % 7 > 0 THEN '2026-01-02'::timestamptz - i / 2 * interval '1 minute' END, NULL
		FROM generate_series(1, 97) AS i`)
	for _, sortBy := range []string{"run_id", "cluster_name", "status", "queued_at", "started_at", "finished_at", "group_name"} {
		for order, sqlOrder := range map[string]string{"asc": "ASC", "desc": "DESC"} {
			want := ask[string](t, s, fmt.Sprintf(
				`SELECT string_agg(run_id, ' ' ORDER BY %s %s NULLS LAST, run_id %s) FROM task`, sortBy, sqlOrder, sqlOrder))
			var got []string
			for offset := 0; ; offset += 10 {
				page, total := s.runIDs(t, state.ListOptions{SortBy: sortBy, Order: order, Limit: 10, Offset: offset})
				assert.Equal(t, 97, total)
				if offset >= total {
					assert.Empty(t, page)
					break
				}
				got = append(got, page...)
			}
			assert.Equal(t, want, strings.Join(got, " "), "%s %s", sortBy, order)
		}
	}
	_, total := s.runIDs(t, state.ListOptions{Offset: 1 << 40, Order: "desc"})
	assert.Equal(t, 97, total)
}

func TestTotalsAreExactIfCountingEndsInTime(t *testing.T) {
	t.Parallel()
	clock := testkit.NewClock(time.Now())
	s := newStore(t, func(c *state.ManagerConfig) { c.Clock = clock.Now })
	s.exec(t, `INSERT INTO task (run_id, group_name, status) SELECT 'r' || i, 'g', 'STOPPED' FROM generate_series(1, 10000) AS i`)
	s.exec(t, `VACUUM ANALYZE task`)
	totals := func(o state.ListOptions, want int) {
		t.Helper()
		list, err := s.ListRuns(t.Context(), o)
		require.NoError(t, err)
		assert.Equal(t, want, list.Total)
		assert.False(t, list.TotalIsEstimate)
	}
	for _, o := range []state.ListOptions{
		{}, {Limit: 10}, {Limit: 10, Offset: 9990}, {Limit: 20, Offset: 9990}, {Limit: 10, Offset: 20_000}, {Limit: 20_000},
	} {
		totals(o, 10_000)
	}
	s.exec(t, `INSERT INTO task (run_id, group_name, status) SELECT 's' || i, 'g', 'STOPPED' FROM generate_series(1, 20000) AS i`)
	totals(state.ListOptions{Limit: 10, ExactTotal: true}, 30_000)
	totals(state.ListOptions{Limit: 10, Offset: 50_000, ExactTotal: true}, 30_000)
	totals(state.ListOptions{Limit: 10, Filters: map[string][]string{"status": {"QUEUED"}}}, 0)
	totals(state.ListOptions{Limit: 10}, 10_000) // A count is cached 10 s,
	totals(state.ListOptions{Limit: 10, Offset: 20_000}, 20_011)
	clock.Advance(11 * time.Second) // and not longer.
	for _, o := range []state.ListOptions{{Limit: 10}, {}, {Limit: 10, Offset: 20_000}, {Limit: 10, Offset: 29_990}, {Limit: 10, Offset: 50_000}} {
		totals(o, 30_000)
	}
}

func TestTotalsErrUpwardsIfCountingTakesTooLong(t *testing.T) {
	t.Parallel()
	const rows = 200_000
	s := newStore(t)
	state.CountImpatiently(t, s.Manager, s.url)
	s.exec(t, `INSERT INTO task (run_id, group_name, status, tier) SELECT 'r' || i, 'g', 'STOPPED', CASE i % 2 WHEN 0 THEN 'Tier1' END
		FROM generate_series(1, $1::int) AS i`, rows)
	s.exec(t, `VACUUM ANALYZE task`)
	for name, c := range map[string]struct {
		filters map[string][]string
		rows    int
	}{
		"all": {nil, rows}, "a NULL that reads as a value": {map[string][]string{"tier": {"Tier4"}}, rows / 2},
		"one of several": {map[string][]string{"tier": {"Tier1", "Tier4"}}, rows},
		"booleans":       {map[string][]string{"requires_docker": {"false"}}, rows},
	} {
		for _, offset := range []int{0, c.rows / 2, c.rows - 20, c.rows - 11} {
			list, err := s.ListRuns(t.Context(), state.ListOptions{Limit: 10, Offset: offset, Filters: c.filters, SortBy: "run_id"})
			require.NoError(t, err, name)
			require.Len(t, list.Runs, 10, name)
			assert.True(t, list.TotalIsEstimate, name)
			assert.GreaterOrEqual(t, list.Total, c.rows, "%s: a client that stops at the total would lose rows", name)
			assert.Less(t, list.Total, 2*c.rows, name)
		}
	}
	// The planner knows far fewer rows than there are. The total still includes the next row.
	s.exec(t, `UPDATE pg_class SET reltuples = 10, relpages = 1 WHERE oid = 'task'::regclass`)
	list, err := s.ListRuns(t.Context(), state.ListOptions{Limit: 10, Offset: 150_000, Filters: map[string][]string{"status": {"STOPPED"}}})
	require.NoError(t, err)
	assert.GreaterOrEqual(t, list.Total, 150_011)
	exact, err := s.ListRuns(t.Context(), state.ListOptions{Limit: 10, ExactTotal: true})
	require.NoError(t, err)
	assert.Equal(t, rows, exact.Total)
	assert.False(t, exact.TotalIsEstimate)
}

func TestALimitIsCut(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.exec(t, `INSERT INTO task (run_id, status) SELECT 'r' || i, 'STOPPED' FROM generate_series(1, 10002) AS i`)
	ids, total := s.runIDs(t, state.ListOptions{Limit: 1 << 40})
	assert.Len(t, ids, state.MaxListLimit)
	assert.Greater(t, total, state.MaxListLimit)
}

func TestDefinitionsAreListed(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for i, alias := range []string{"c", "a_1", "b", "a%1"} {
		d := fullDefinition(alias)
		d.DefinitionID, d.Memory = fmt.Sprint(i), new(int64(i))
		if i == 2 {
			d.Memory, d.Ports, d.Tags = nil, nil, nil
		}
		require.NoError(t, s.CreateDefinition(t.Context(), d))
	}
	aliases := func(o state.ListOptions) (aliases []string, total int) {
		t.Helper()
		list, err := s.ListDefinitions(t.Context(), o)
		require.NoError(t, err)
		for _, d := range list.Definitions {
			aliases = append(aliases, d.Alias)
			if d.DefinitionID != "2" {
				assert.Equal(t, []string{"a", "b"}, d.Tags)
				assert.Equal(t, []int64{80, 443}, d.Ports)
			} else {
				assert.Empty(t, d.Tags)
			}
		}
		return aliases, list.Total
	}
	got, total := aliases(state.ListOptions{Limit: 10, SortBy: "alias"})
	assert.Equal(t, []string{"a%1", "a_1", "b", "c"}, got)
	assert.Equal(t, 4, total)
	got, total = aliases(state.ListOptions{Limit: 2, Offset: 1, SortBy: "memory", Order: "desc"})
	assert.Equal(t, []string{"a_1", "c"}, got)
	assert.Equal(t, 4, total)
	got, _ = aliases(state.ListOptions{Limit: 10, SortBy: "memory"})
	assert.Equal(t, "b", got[3], "NULLs are last")
	got, _ = aliases(state.ListOptions{Limit: 10, Filters: map[string][]string{"alias": {"_"}}})
	assert.Equal(t, []string{"a_1"}, got)
	_, total = aliases(state.ListOptions{Limit: 0, Env: []state.EnvVar{{Name: "A", Value: "2"}}})
	assert.Equal(t, 4, total)
	var malformed state.MalformedInput
	_, err := s.ListDefinitions(t.Context(), state.ListOptions{Limit: 10, Filters: map[string][]string{"status": {"QUEUED"}}})
	require.ErrorAs(t, err, &malformed)
}
