// Package api is the wire of the HTTP API: the types of its requests and answers, and openapi.yaml, which describes
// them. It imports nothing else of this module, so a client needs no database driver and no Kubernetes library.
//
// Times are RFC 3339 in UTC. Memory and storage are in MB (10^6 bytes), cpu in
// millicores, durations in seconds. The rules are in rest-api.md.
package api

import _ "embed" // openapi.yaml

// OpenAPI is the OpenAPI 3.1 document of the API, in YAML.
//
//go:embed openapi.yaml
var OpenAPI []byte

// Error is the body of every answer that is not 200.
type Error struct {
	// Error is a sentence that the caller can act on.
	Error string `json:"error"`
}

// Answers that only report that something was done.
type (
	Deleted struct {
		Deleted bool `json:"deleted"`
	}
	Created struct {
		Created bool `json:"created"`
	}
	Updated struct {
		Updated bool `json:"updated"`
	}
	Terminated struct {
		Terminated bool `json:"terminated"`
	}
)

// Health is the answer of GET /api/v6/health.
type Health struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

// Ready is the answer of GET /readyz.
type Ready struct {
	Status  string            `json:"status"`
	Details map[string]string `json:"details,omitempty"`
}

// Page holds the members of every list besides its items. Field filters are echoed
// as further members, each an array under the filter's name.
type Page struct {
	// Total counts all matching items; it errs upward if TotalIsEstimate.
	Total           int  `json:"total"`
	TotalIsEstimate bool `json:"total_is_estimate,omitempty"`
	// Limit is the most items of a page, Offset the items before it.
	Limit      int               `json:"limit"`
	Offset     int               `json:"offset"`
	SortBy     string            `json:"sort_by"`
	Order      string            `json:"order"`
	EnvFilters map[string]string `json:"env_filters"`
}

// RunList is a page of runs.
type RunList struct {
	Page
	History []Run `json:"history"`
}

// DefinitionList is a page of definitions.
type DefinitionList struct {
	Page
	Definitions []Definition `json:"definitions"`
}

// TemplateList is a page of templates.
type TemplateList struct {
	Page
	Templates []Template `json:"templates"`
}

// GroupList is a page of group names.
type GroupList struct {
	Total  int      `json:"total"`
	Groups []string `json:"groups"`
	Limit  int      `json:"limit"`
	Offset int      `json:"offset"`
}

// TagList is a page of tags.
type TagList struct {
	Total  int      `json:"total"`
	Tags   []string `json:"tags"`
	Limit  int      `json:"limit"`
	Offset int      `json:"offset"`
}
