package state

// Bounds and defaults of lists (rest-api.md, Lists).
const (
	// DefaultListLimit is the length of a page where the client names none.
	DefaultListLimit = 1024
	// MaxListLimit is the longest page; a larger limit is cut to it.
	MaxListLimit = 10_000

	OrderAscending  = "asc"
	OrderDescending = "desc"

	DefaultRunSort        = "group_name"
	DefaultDefinitionSort = "group_name"
	DefaultTemplateSort   = "template_name"
)

// ListOptions say which part of a list is wanted (rest-api.md, Lists).
type ListOptions struct {
	// Limit and Offset count rows.
	Limit, Offset int
	// SortBy is empty for the list's default; Order is "asc" or "desc".
	SortBy, Order string
	// Filters are field filters by column name, and <time column>_since and
	// _until. Names and values are the client's: the Manager checks them.
	Filters map[string][]string
	// Env are environment variables that a row must have, all of them.
	Env []EnvVar
	// ExactTotal asks for a counted total however many rows match.
	ExactTotal bool
	// LatestOnly shows only the newest version of each template.
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
