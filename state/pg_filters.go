package state

import (
	"encoding/json"
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

// filter is a column that a list can be filtered by. The expression is a fixed
// text; it differs from the column's name where a NULL is shown as a value.
type filter struct {
	expression string
	kind       kind
}

// resource is what a list query needs to know of its table.
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

// The suffixes that make a time column's filter a bound.
const (
	sinceSuffix = "_since"
	untilSuffix = "_until"
)

// conditions collects a WHERE of fixed texts and the arguments bound to it.
type conditions struct {
	texts []string
	args  []any
}

// add adds a condition: before, a placeholder for arg, and after.
func (c *conditions) add(before string, arg any, after string) {
	c.args = append(c.args, arg)
	c.texts = append(c.texts, before+"$"+strconv.Itoa(len(c.args))+after)
}

// bind adds an argument that no condition holds, and is its placeholder.
func (c *conditions) bind(arg any) string {
	c.args = append(c.args, arg)
	return "$" + strconv.Itoa(len(c.args))
}

// where is the WHERE clause, with more conditions that are fixed texts.
func (c *conditions) where(more ...string) string {
	all := slices.Concat(c.texts, more)
	if len(all) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(all, " AND ")
}

// conditions checks what a client filters by (rest-api.md, Lists) and makes
// it a WHERE. What is wrong with it is a MalformedInput.
func (r resource) conditions(o ListOptions) (*conditions, error) {
	c := &conditions{}
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
	c.add(r.env+" @> ", string(raw), "")
	return c, nil
}

// FilterNames lists the filters of the resource.
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
		at, err := parseTime(name, values[0])
		if err != nil {
			return err
		}
		c.add(f.expression+operator, at, "")
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
		if parsed[i], err = f.parse(name, value); err != nil {
			return err
		}
	}
	switch {
	case len(values) > 1:
		c.add(f.expression+" = ANY(", pq.GenericArray{A: parsed}, ")")
	case f.kind == kindSearch:
		c.add(f.expression+" LIKE ", likePattern(values[0]), "")
	default:
		c.add(f.expression+" = ", parsed[0], "")
	}
	return nil
}

func (f filter) parse(name, value string) (any, error) {
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
		return parseTime(name, value)
	case kindStatus:
		if !Status(value).Valid() {
			return nil, Malformedf("there is no status %q; there are: %s", shortened(value), joinStatuses())
		}
		return value, nil
	default:
		return value, checkText("filter "+name, value)
	}
}

func joinStatuses() string {
	words := make([]string, len(Statuses))
	for i, s := range Statuses {
		words[i] = string(s)
	}
	return strings.Join(words, ", ")
}

// fitsInteger reports whether n fits in a column of type integer.
func fitsInteger(n int64) bool { return n >= math.MinInt32 && n <= math.MaxInt32 }

// checkText refuses what Postgres cannot hold as text.
func checkText(what, value string) error {
	if strings.ContainsRune(value, 0) {
		return Malformedf("the %s holds a NUL character", what)
	}
	if !utf8.ValidString(value) {
		return Malformedf("the %s is not UTF-8 text", what)
	}
	return nil
}

// shownLength is how many characters of a client's value an error repeats.
const shownLength = 60

// shortened is a value as error sentences repeat it.
func shortened(value string) string {
	runes := []rune(value)
	if len(runes) <= shownLength {
		return value
	}
	return string(runes[:shownLength]) + "…"
}

// timeLayouts are the forms of a time besides RFC 3339; without a zone they
// mean UTC. Fractions of seconds are read after any seconds.
var timeLayouts = []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly}

func parseTime(name, value string) (time.Time, error) {
	for _, layout := range timeLayouts {
		if at, err := time.Parse(layout, value); err == nil {
			return at.UTC(), nil
		}
	}
	return time.Time{}, Malformedf("the filter %s needs a time such as 2006-01-02T15:04:05Z or 2006-01-02, not %q",
		name, shortened(value))
}

var likeEscapes = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// likePattern matches texts that hold value, literally.
func likePattern(value string) string { return "%" + likeEscapes.Replace(value) + "%" }

// order resolves what to sort by: the expression, and whether downwards.
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
