package state

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
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
	// fallback is what a NULL reads as, if not as nothing. It is not written as
	// COALESCE, because the planner has no statistics of that.
	fallback string
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
	// now is what "now" and "today" in a time filter refer to.
	now time.Time
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
		at, err := parseTime(name, values[0], c.now)
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

// timeForm is a time as PostgreSQL's timestamptz input takes it from real
// clients (rest-api.md, Lists): a date with or without dashes; T or blanks; a
// time with or without colons, down to the hour; and a zone.
var timeForm = regexp.MustCompile(`(?i)^(\d{4})(-?)(\d{2})(-?)(\d{2})` +
	`(?:(?:t|\s+)(\d{2})(?:(:?)(\d{2})(?:(:?)(\d{2})(?:\.(\d+))?)?)?)?` +
	`(?:\s*(z|utc|gmt)|\s*([+-]| )(\d{2}):?(\d{2})?)?$`)

// mailForms are those of RFC 1123 and its neighbours, all with GMT, UTC or an
// offset.
var mailForms = []string{
	"Mon, 2 Jan 2006 15:04:05 GMT", "Mon, 2 Jan 2006 15:04:05 UTC", "Mon, 2 Jan 2006 15:04:05 -0700",
	"2 Jan 2006 15:04:05 GMT", "2 Jan 2006 15:04:05 UTC", "2 Jan 2006 15:04:05 -0700",
}

// parseTime reads a time in one of the forms of rest-api.md, Lists. Without a
// zone it is in UTC. Fractions are rounded to microseconds, as Postgres does.
// What a timestamp cannot be compared with sensibly (infinity, years before 1
// and after 9999, other zone names) is refused.
func parseTime(name, value string, now time.Time) (time.Time, error) {
	text := strings.TrimSpace(value)
	midnight := now.UTC().Truncate(24 * time.Hour)
	switch strings.ToLower(text) {
	case "now":
		return now.UTC(), nil
	case "today":
		return midnight, nil
	case "yesterday":
		return midnight.AddDate(0, 0, -1), nil
	case "tomorrow":
		return midnight.AddDate(0, 0, 1), nil
	case "epoch":
		return time.Unix(0, 0).UTC(), nil
	}
	for _, form := range mailForms {
		if at, err := time.Parse(form, text); err == nil {
			return at.UTC(), nil
		}
	}
	if m := timeForm.FindStringSubmatch(text); m != nil {
		if at, ok := timeOf(m); ok {
			return at, nil
		}
	}
	return time.Time{}, Malformedf("the filter %s needs a time such as 2006-01-02T15:04:05Z or 2006-01-02, not %q",
		name, shortened(value))
}

// timeOf makes a time of the parts that timeForm found, if they make one.
func timeOf(m []string) (at time.Time, ok bool) {
	number := func(i int) int {
		n, _ := strconv.Atoi(m[i]) // digits, or nothing
		return n
	}
	year, month, day, hour, minute, second := number(1), number(3), number(5), number(6), number(8), number(10)
	switch {
	// A date is written with dashes or without, a time with colons or without.
	case m[2] != m[4], m[10] != "" && m[7] != m[9],
		// Without a time there is nothing for an offset to apply to.
		m[6] == "" && m[14] != "",
		// An hour alone needs a zone; Postgres takes it for something else.
		m[6] != "" && m[8] == "" && m[12] == "" && m[14] == "",
		year == 0, hour > 24, hour == 24 && minute+second > 0, minute > 59, second > 60, number(14) > 15, number(15) > 59:
		return at, false
	}
	date := time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC)
	if date.Day() != day || int(date.Month()) != month {
		return at, false // 30 February
	}
	fraction, err := strconv.ParseFloat("0."+m[11]+"0", 64)
	if err != nil {
		return at, false
	}
	offset := time.Duration(number(14))*time.Hour + time.Duration(number(15))*time.Minute
	if m[13] == "-" {
		offset = -offset // A "+" may have arrived as a blank.
	}
	at = date.Add(time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute + time.Duration(second)*time.Second +
		time.Duration(math.Round(fraction*1e6))*time.Microsecond - offset)
	return at, true
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

// runResource says how runs are filtered and sorted. Every column of table
// task that is neither jsonb nor an array is a filter.
var runResource = resource{
	filters: map[string]filter{
		"run_id":                  {expression: "task.run_id"},
		"definition_id":           {expression: "task.definition_id"},
		"alias":                   {expression: "task.alias", kind: kindSearch},
		"image":                   {expression: "task.image", kind: kindSearch},
		"cluster_name":            {expression: "task.cluster_name"},
		"exit_code":               {expression: "task.exit_code", kind: kindInteger},
		"exit_reason":             {expression: "task.exit_reason", kind: kindSearch},
		"status":                  {expression: "task.status", kind: kindStatus},
		"status_reason":           {expression: "task.status_reason"},
		"queued_at":               {expression: "task.queued_at", kind: kindTime},
		"started_at":              {expression: "task.started_at", kind: kindTime},
		"finished_at":             {expression: "task.finished_at", kind: kindTime},
		"instance_id":             {expression: "task.instance_id"},
		"instance_dns_name":       {expression: "task.instance_dns_name"},
		"group_name":              {expression: "task.group_name", kind: kindSearch},
		"task_arn":                {expression: "task.task_arn"},
		"docker_id":               {expression: "task.docker_id"},
		"user":                    {expression: `task."user"`},
		"task_type":               {expression: "task.task_type"},
		"command":                 {expression: "task.command", kind: kindSearch},
		"command_hash":            {expression: "task.command_hash"},
		"memory":                  {expression: "task.memory", kind: kindInteger},
		"memory_limit":            {expression: "task.memory_limit", kind: kindInteger},
		"cpu":                     {expression: "task.cpu", kind: kindInteger},
		"cpu_limit":               {expression: "task.cpu_limit", kind: kindInteger},
		"gpu":                     {expression: "task.gpu", kind: kindInteger},
		"engine":                  {expression: "task.engine"},
		"node_lifecycle":          {expression: "task.node_lifecycle"},
		"ephemeral_storage":       {expression: "task.ephemeral_storage", kind: kindInteger},
		"container_name":          {expression: "task.container_name"},
		"pod_name":                {expression: "task.pod_name"},
		"namespace":               {expression: "task.namespace"},
		"max_memory_used":         {expression: "task.max_memory_used", kind: kindInteger},
		"max_cpu_used":            {expression: "task.max_cpu_used", kind: kindInteger},
		"executable_id":           {expression: "task.executable_id"},
		"executable_type":         {expression: "task.executable_type", fallback: "'task_definition'"},
		"attempt_count":           {expression: "task.attempt_count", kind: kindInteger},
		"active_deadline_seconds": {expression: "task.active_deadline_seconds", kind: kindInteger},
		"metrics_uri":             {expression: "task.metrics_uri"},
		"description":             {expression: "task.description", fallback: "task.alias"},
		"idempotence_key":         {expression: "task.idempotence_key"},
		"arch":                    {expression: "task.arch"},
		"requires_docker":         {expression: "task.requires_docker", kind: kindBool, fallback: "false"},
		"service_account":         {expression: "task.service_account"},
		"tier":                    {expression: "task.tier", fallback: "'Tier4'"},
		"requested_memory":        {expression: "task.requested_memory", kind: kindInteger},
		"requested_cpu":           {expression: "task.requested_cpu", kind: kindInteger},
		"claimed_by":              {expression: "task.claimed_by"},
		"claimed_until":           {expression: "task.claimed_until", kind: kindTime},
		"next_attempt_at":         {expression: "task.next_attempt_at", kind: kindTime},
	},
	sorts: map[string]string{
		"run_id":       "task.run_id",
		"cluster_name": "task.cluster_name",
		"status":       "task.status",
		"queued_at":    "task.queued_at",
		"started_at":   "task.started_at",
		"finished_at":  "task.finished_at",
		"group_name":   "task.group_name",
	},
	defaultSort: DefaultRunSort,
	id:          "task.run_id",
	env:         "task.env",
}

// definitionResource says how definitions are filtered and sorted.
var definitionResource = resource{
	filters: map[string]filter{
		"definition_id":                {expression: "task_def.definition_id"},
		"alias":                        {expression: "task_def.alias", kind: kindSearch},
		"image":                        {expression: "task_def.image", kind: kindSearch},
		"group_name":                   {expression: "task_def.group_name", kind: kindSearch},
		"command":                      {expression: "task_def.command", kind: kindSearch},
		"memory":                       {expression: "task_def.memory", kind: kindInteger},
		"cpu":                          {expression: "task_def.cpu", kind: kindInteger},
		"gpu":                          {expression: "task_def.gpu", kind: kindInteger},
		"user":                         {expression: `task_def."user"`},
		"arn":                          {expression: "task_def.arn"},
		"container_name":               {expression: "task_def.container_name"},
		"task_type":                    {expression: "task_def.task_type"},
		"privileged":                   {expression: "task_def.privileged", kind: kindBool},
		"adaptive_resource_allocation": {expression: "task_def.adaptive_resource_allocation", kind: kindBool},
		"ephemeral_storage":            {expression: "task_def.ephemeral_storage", kind: kindInteger},
		"requires_docker":              {expression: "task_def.requires_docker", kind: kindBool, fallback: "false"},
		"target_cluster":               {expression: "task_def.target_cluster"},
	},
	sorts: map[string]string{
		"alias":      "task_def.alias",
		"image":      "task_def.image",
		"group_name": "task_def.group_name",
		"memory":     "task_def.memory",
	},
	defaultSort: DefaultDefinitionSort,
	id:          "task_def.definition_id",
	env:         "task_def.env",
}

// templateResource says how templates are filtered and sorted.
var templateResource = resource{
	filters: map[string]filter{
		"template_id":                  {expression: "template.template_id"},
		"template_name":                {expression: "template.template_name"},
		"version":                      {expression: "template.version", kind: kindInteger},
		"command_template":             {expression: "template.command_template"},
		"image":                        {expression: "template.image", kind: kindSearch},
		"memory":                       {expression: "template.memory", kind: kindInteger},
		"cpu":                          {expression: "template.cpu", kind: kindInteger},
		"gpu":                          {expression: "template.gpu", kind: kindInteger},
		"ephemeral_storage":            {expression: "template.ephemeral_storage", kind: kindInteger},
		"privileged":                   {expression: "template.privileged", kind: kindBool},
		"adaptive_resource_allocation": {expression: "template.adaptive_resource_allocation", kind: kindBool},
		"container_name":               {expression: "template.container_name"},
		"avatar_uri":                   {expression: "template.avatar_uri"},
	},
	sorts: map[string]string{
		"template_name": "template.template_name",
		"version":       "template.version",
	},
	defaultSort: DefaultTemplateSort,
	id:          "template.template_id",
	env:         "template.env",
}
