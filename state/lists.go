package state

import (
	"context"
	"slices"
)

// Bounds and defaults of lists (rest-api.md, Lists).
const (
	// DefaultListLimit is the length of a page if the client gives none.
	DefaultListLimit = 1024
	// MaxListLimit is the longest page; a larger limit is cut to it.
	MaxListLimit = 10_000

	OrderAscending  = "asc"
	OrderDescending = "desc"

	DefaultRunSort        = "group_name"
	DefaultDefinitionSort = "group_name"
	DefaultTemplateSort   = "template_name"
)

// ListOptions select a part of a list (rest-api.md, Lists).
type ListOptions struct {
	// Limit and Offset count rows.
	Limit, Offset int
	// SortBy is empty for the list's default; Order is "asc" or "desc".
	SortBy, Order string
	// Filters are by column name, and by <time column>_since and _until. Names and values are the client's: the Manager
	// checks them.
	Filters map[string][]string
	// Env holds environment variables, all of which a row must have.
	Env []EnvVar
	// ExactTotal demands a counted total however many rows match.
	ExactTotal bool
	// LatestOnly restricts a list of templates to the newest version of each.
	LatestOnly bool
}

// RunList is a page of runs.
type RunList struct {
	Total           int
	TotalIsEstimate bool
	Runs            []Run
}

// DefinitionList is a page of definitions.
type DefinitionList struct {
	Total       int
	Definitions []Definition
}

// TemplateList is a page of templates.
type TemplateList struct {
	Total     int
	Templates []Template
}

// NameList is a page of group names or tags.
type NameList struct {
	Total int
	Names []string
}

// ListDefinitions returns a page of definitions, with ports and tags, in one query, and how many there are.
func (m *Manager) ListDefinitions(ctx context.Context, o ListOptions) (DefinitionList, error) {
	var rows []definitionRow
	total, err := m.list(ctx, &rows, listQuery{definitionResource, definitionColumns, "task_def"}, o)
	list := DefinitionList{Total: total, Definitions: make([]Definition, len(rows))}
	for i := range rows {
		list.Definitions[i] = m.definitionOf(ctx, &rows[i])
	}
	return list, err
}

// latestTemplates stands for the table if only the newest version of each name is wanted.
const latestTemplates = `(
	SELECT DISTINCT ON (template_name) * FROM template ORDER BY template_name, version DESC
) AS template`

// ListTemplates returns a page of templates and how many there are.
func (m *Manager) ListTemplates(ctx context.Context, o ListOptions) (TemplateList, error) {
	source := "template"
	if o.LatestOnly {
		source = latestTemplates
	}
	var rows []templateRow
	total, err := m.list(ctx, &rows, listQuery{templateResource, templateColumns, source}, o)
	list := TemplateList{Total: total, Templates: make([]Template, len(rows))}
	for i := range rows {
		list.Templates[i] = m.templateOf(ctx, &rows[i])
	}
	return list, err
}

// listQuery is a list of a small table; runs have their own.
type listQuery struct {
	resource
	// columns and source are fixed texts.
	columns, source string
}

// list reads a page into rows, a pointer to a slice, and returns how many rows match.
func (m *Manager) list(ctx context.Context, rows any, q listQuery, o ListOptions) (total int, err error) {
	limit, err := pageOf(o)
	if err != nil {
		return 0, err
	}
	c, err := q.conditions(o, m.clock())
	if err != nil {
		return 0, err
	}
	sort, down, err := q.order(o)
	if err != nil {
		return 0, err
	}
	direction := " ASC"
	if down {
		direction = " DESC"
	}
	if err := m.db.GetContext(ctx, &total, `SELECT count(*) FROM `+q.source+c.where(), c.args...); err != nil || limit == 0 {
		return total, interpretError(err)
	}
	page := conditions{texts: c.texts, args: slices.Clone(c.args)}
	limits := ` LIMIT ` + page.bind(limit) + ` OFFSET ` + page.bind(o.Offset)
	err = m.db.SelectContext(ctx, rows, `SELECT `+q.columns+` FROM `+q.source+page.where()+
		` ORDER BY `+sort+direction+` NULLS LAST, `+q.id+direction+limits, page.args...)
	return total, interpretError(err)
}

// ListGroups returns a page of the group names of definitions that contain name.
func (m *Manager) ListGroups(ctx context.Context, limit, offset int, name string) (NameList, error) {
	return m.listNames(ctx, "group_name", "task_def", ListOptions{Limit: limit, Offset: offset}, name)
}

// ListTags returns a page of the tags of definitions that contain name.
func (m *Manager) ListTags(ctx context.Context, limit, offset int, name string) (NameList, error) {
	return m.listNames(ctx, "tag_id", "task_def_tags", ListOptions{Limit: limit, Offset: offset}, name)
}

// listNames returns a page of the distinct values of a column that contain name. column and table are fixed texts.
func (m *Manager) listNames(ctx context.Context, column, table string, o ListOptions, name string) (NameList, error) {
	list := NameList{Names: []string{}}
	limit, err := pageOf(o)
	if err != nil {
		return list, err
	}
	if err := checkText("name", name); err != nil {
		return list, err
	}
	from, pattern := ` FROM `+table+` WHERE `+column+` <> '' AND `+column+` LIKE $1`, likePattern(name)
	if err := m.db.GetContext(ctx, &list.Total, `SELECT count(DISTINCT `+column+`)`+from, pattern); err != nil || limit == 0 {
		return list, interpretError(err)
	}
	err = m.db.SelectContext(ctx, &list.Names,
		`SELECT DISTINCT `+column+from+` ORDER BY `+column+` LIMIT $2 OFFSET $3`, pattern, limit, o.Offset)
	return list, interpretError(err)
}
