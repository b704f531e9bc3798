package state

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/lib/pq"
)

// kind is the type of a column that lists are filtered by.
type kind int

const (
	kindText kind = iota
	// kindSearch is text of which one value is a substring.
	kindSearch
	kindInteger
	kindBool
	kindTime
	kindStatus
)

// filter is a column that a list can be filtered by. Both texts are fixed.
type filter struct {
	expression string
	kind       kind
	// fallback is the value that a NULL reads as, or empty. It is not written as COALESCE, because the planner has no
	// statistics of that.
	fallback string
}

// resource describes a table to list queries.
type resource struct {
	// filters are by the names that clients use: those of the columns.
	filters map[string]filter
	// sorts are the columns to sort by, and their expressions.
	sorts       map[string]string
	defaultSort string
	// id breaks ties.
	id string
	// env is the column of environments.
	env string
}

// newResource returns the resource of a table. columns lists, for each kind, the columns to filter by, and sorts those
// to sort by; fallbacks are those of the filters.
func newResource(table, id, sorts, defaultSort string, columns map[kind]string, fallbacks map[string]string) resource {
	expression := func(column string) string { return table + `."` + column + `"` }
	r := resource{
		filters: map[string]filter{}, sorts: map[string]string{}, defaultSort: defaultSort,
		id: expression(id), env: expression("env"),
	}
	for kind, names := range columns {
		for _, name := range strings.Fields(names) {
			r.filters[name] = filter{expression(name), kind, fallbacks[name]}
		}
	}
	for _, name := range strings.Fields(sorts) {
		r.sorts[name] = expression(name)
	}
	return r
}

// Every column of table task that is neither jsonb nor an array is a filter of runs.
var (
	runResource = newResource("task", "run_id",
		"run_id cluster_name status queued_at started_at finished_at group_name", DefaultRunSort,
		map[kind]string{
			kindText: `run_id definition_id cluster_name status_reason instance_id instance_dns_name task_arn docker_id user
				task_type command_hash engine node_lifecycle container_name pod_name namespace executable_id executable_type
				metrics_uri description idempotence_key arch service_account tier claimed_by`,
			kindSearch: `alias image exit_reason group_name command`,
			kindInteger: `exit_code memory memory_limit cpu cpu_limit gpu ephemeral_storage max_memory_used max_cpu_used
				attempt_count active_deadline_seconds requested_memory requested_cpu`,
			kindBool:   `requires_docker`,
			kindTime:   `queued_at started_at finished_at claimed_until next_attempt_at`,
			kindStatus: `status`,
		},
		map[string]string{
			"executable_type": "'task_definition'", "description": "task.alias", "requires_docker": "false", "tier": "'Tier4'",
		})

	definitionResource = newResource("task_def", "definition_id",
		"alias image group_name memory", DefaultDefinitionSort,
		map[kind]string{
			kindText:    `definition_id user arn container_name task_type target_cluster`,
			kindSearch:  `alias image group_name command`,
			kindInteger: `memory cpu gpu ephemeral_storage`,
			kindBool:    `privileged adaptive_resource_allocation requires_docker`,
		},
		map[string]string{"requires_docker": "false"})

	templateResource = newResource("template", "template_id",
		"template_name version", DefaultTemplateSort,
		map[kind]string{
			kindText:    `template_id template_name command_template container_name avatar_uri`,
			kindSearch:  `image`,
			kindInteger: `version memory cpu gpu ephemeral_storage`,
			kindBool:    `privileged adaptive_resource_allocation`,
		}, nil)
)

// The suffixes that make a time column's filter a bound.
const (
	sinceSuffix = "_since"
	untilSuffix = "_until"
)

// conditions is a WHERE of fixed texts and the arguments bound to it.
type conditions struct {
	texts []string
	args  []any
	// now is the time that "now" and "today" in a time filter refer to.
	now time.Time
}

// bind adds an argument that no condition holds, and returns its placeholder.
func (c *conditions) bind(arg any) string {
	c.args = append(c.args, arg)
	return "$" + strconv.Itoa(len(c.args))
}

// where returns the WHERE clause, with more conditions that are fixed texts.
func (c *conditions) where(more ...string) string {
	all := slices.Concat(c.texts, more)
	if len(all) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(all, " AND ")
}

// conditions returns the WHERE of what a client filters by (rest-api.md, Lists), or MalformedInput.
func (r resource) conditions(o ListOptions, now time.Time) (*conditions, error) {
	c := &conditions{now: now}
	for _, name := range slices.Sorted(maps.Keys(o.Filters)) {
		values := o.Filters[name]
		if len(values) == 0 || len(values) == 1 && values[0] == "" {
			continue
		}
		if err := r.addFilter(c, name, values); err != nil {
			return nil, err
		}
	}
	if len(o.Env) == 0 {
		return c, nil
	}
	for _, v := range o.Env {
		if err := checkText("env", v.Name+v.Value); err != nil {
			return nil, err
		}
	}
	raw, err := json.Marshal(o.Env)
	if err != nil {
		return nil, err
	}
	c.texts = append(c.texts, r.env+" @> "+c.bind(string(raw)))
	return c, nil
}

// filterNames returns the names of the filters of the resource, sorted.
func (r resource) filterNames() []string {
	var names []string
	for name, f := range r.filters {
		names = append(names, name)
		if f.kind == kindTime {
			names = append(names, name+sinceSuffix, name+untilSuffix)
		}
	}
	slices.Sort(names)
	return names
}

func (r resource) addFilter(c *conditions, name string, values []string) error {
	if f, ok := r.filters[name]; ok {
		return f.add(c, name, values)
	}
	for suffix, operator := range map[string]string{sinceSuffix: " > ", untilSuffix: " < "} {
		column, isBound := strings.CutSuffix(name, suffix)
		f, known := r.filters[column]
		if !isBound || !known || f.kind != kindTime {
			continue
		}
		if len(values) > 1 {
			return Malformedf("the filter %s takes one value", name)
		}
		at, err := parseTime(name, values[0], c.now)
		if err != nil {
			return err
		}
		c.texts = append(c.texts, f.expression+operator+c.bind(at))
		return nil
	}
	if err := checkText("filter", name); err != nil {
		return err
	}
	return Malformedf("there is no filter %q; there are: %s", shortened(name), strings.Join(r.filterNames(), ", "))
}

// add adds the condition that the column has one of the values.
func (f filter) add(c *conditions, name string, values []string) error {
	parsed := make([]any, len(values))
	for i, value := range values {
		var err error
		if parsed[i], err = f.parse(name, value, c.now); err != nil {
			return err
		}
	}
	comparison := " = " + c.bind(parsed[0])
	switch {
	case len(values) > 1:
		c.args[len(c.args)-1] = pq.GenericArray{A: parsed}
		comparison = fmt.Sprintf(" = ANY($%d)", len(c.args))
	case f.kind == kindSearch:
		c.args[len(c.args)-1] = likePattern(values[0])
		comparison = fmt.Sprintf(" LIKE $%d", len(c.args))
	}
	text := f.expression + comparison
	if f.fallback != "" {
		text = "(" + text + " OR " + f.expression + " IS NULL AND " + f.fallback + comparison + ")"
	}
	c.texts = append(c.texts, text)
	return nil
}

func (f filter) parse(name, value string, now time.Time) (any, error) {
	switch f.kind {
	case kindInteger:
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || !fitsInteger(n) {
			return nil, Malformedf("the filter %s needs a whole number from %d to %d, not %q",
				name, math.MinInt32, math.MaxInt32, shortened(value))
		}
		return n, nil
	case kindBool:
		b, err := strconv.ParseBool(value)
		if err != nil {
			return nil, Malformedf("the filter %s needs true or false, not %q", name, shortened(value))
		}
		return b, nil
	case kindTime:
		return parseTime(name, value, now)
	case kindStatus:
		if !Status(value).Valid() {
			return nil, Malformedf("there is no status %q; there are: %v", shortened(value), Statuses)
		}
		return value, nil
	default:
		return value, checkText("filter "+name, value)
	}
}

// fitsInteger reports whether n fits in a column of type integer.
func fitsInteger(n int64) bool { return n >= math.MinInt32 && n <= math.MaxInt32 }

// checkText returns MalformedInput if Postgres cannot hold value as text.
func checkText(what, value string) error {
	if strings.ContainsRune(value, 0) {
		return Malformedf("the %s holds a NUL character", what)
	}
	if !utf8.ValidString(value) {
		return Malformedf("the %s is not UTF-8 text", what)
	}
	return nil
}

// shownLength is how many characters of a client's value an error message repeats.
const shownLength = 60

// shortened returns a value as error messages repeat it.
func shortened(value string) string {
	runes := []rune(value)
	if len(runes) <= shownLength {
		return value
	}
	return string(runes[:shownLength]) + "…"
}

var likeEscapes = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// likePattern returns the LIKE pattern of texts that contain value literally.
func likePattern(value string) string { return "%" + likeEscapes.Replace(value) + "%" }

// order returns the expression to sort by, and whether the order is downwards.
func (r resource) order(o ListOptions) (expression string, down bool, err error) {
	sortBy := o.SortBy
	if sortBy == "" {
		sortBy = r.defaultSort
	}
	expression, ok := r.sorts[sortBy]
	if !ok {
		return "", false, Malformedf("cannot sort by %q; sort_by is one of: %s",
			shortened(strings.ToValidUTF8(sortBy, "?")), strings.Join(slices.Sorted(maps.Keys(r.sorts)), ", "))
	}
	switch o.Order {
	case "", OrderAscending:
		return expression, false, nil
	case OrderDescending:
		return expression, true, nil
	}
	return "", false, Malformedf("order is %s or %s, not %q", OrderAscending, OrderDescending, shortened(o.Order))
}
