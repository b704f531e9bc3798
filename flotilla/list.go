package flotilla

import (
	"cmp"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/stitchfix/flotilla-os/api"
	"github.com/stitchfix/flotilla-os/state"
)

// maxOffset refuses what cannot be a place in a list.
const maxOffset = 1 << 40

// Query parameters of lists that are no field filters.
const (
	paramLimit      = "limit"
	paramOffset     = "offset"
	paramSortBy     = "sort_by"
	paramOrder      = "order"
	paramEnv        = "env"
	paramExactTotal = "exact_total"
	paramLatestOnly = "latest_only"
)

// listOptions reads the query of a list. Names and values of the field
// filters, and what to sort by, are left to the list itself to check.
func listOptions(r *http.Request, defaultSort string) (opts state.ListOptions, err error) {
	query := r.URL.Query()
	if opts.Limit, opts.Offset, err = pageOf(query); err != nil {
		return opts, err
	}
	opts.SortBy = cmp.Or(query.Get(paramSortBy), defaultSort)
	opts.Order = cmp.Or(query.Get(paramOrder), state.OrderAscending)
	if opts.ExactTotal, err = boolOf(query, paramExactTotal, false); err != nil {
		return opts, err
	}
	if opts.Env, err = envFilters(query[paramEnv]); err != nil {
		return opts, err
	}
	opts.Filters = maps.Clone(map[string][]string(query))
	for _, name := range []string{paramLimit, paramOffset, paramSortBy, paramOrder, paramEnv, paramExactTotal} {
		delete(opts.Filters, name)
	}
	return opts, nil
}

func pageOf(query url.Values) (limit, offset int, err error) {
	if limit, err = countOf(query, paramLimit, state.DefaultListLimit); err != nil {
		return 0, 0, err
	}
	if offset, err = countOf(query, paramOffset, 0); err != nil {
		return 0, 0, err
	}
	if offset > maxOffset {
		return 0, 0, state.Malformedf("offset must be at most %d", maxOffset)
	}
	return min(limit, state.MaxListLimit), offset, nil
}

// countOf reads a parameter that counts rows. A number beyond an int is read as the largest int.
func countOf(query url.Values, name string, absent int) (int, error) {
	text := query.Get(name)
	if text == "" {
		return absent, nil
	}
	if strings.Trim(text, "0123456789") != "" {
		return 0, state.Malformedf("%s must be a whole number of at least 0, not %q", name, state.Shorten(text, maxQuoted))
	}
	// Digits only: what can fail is the size, and then n is the largest int.
	n, _ := strconv.Atoi(text)
	return n, nil
}

// boolOf reads a parameter that is true or false in any spelling: clients in Python send True.
func boolOf(query url.Values, name string, absent bool) (bool, error) {
	text := query.Get(name)
	if text == "" {
		return absent, nil
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		return false, state.Malformedf("%s must be true or false, not %q", name, state.Shorten(text, maxQuoted))
	}
	return value, nil
}

// envFilters reads NAME|VALUE pairs; a single empty one is no filter.
func envFilters(values []string) ([]state.EnvVar, error) {
	if isEmptyFilter(values) {
		return nil, nil
	}
	var env []state.EnvVar
	for _, text := range values {
		name, value, ok := strings.Cut(text, "|")
		if !ok {
			return nil, state.Malformedf("env must be NAME|VALUE, and %q has no |", state.Shorten(text, maxQuoted))
		}
		env = append(env, state.EnvVar{Name: name, Value: value})
	}
	return env, nil
}

// isEmptyFilter reports whether a filter was sent without a value, as the old web UI does for every field left blank.
func isEmptyFilter(values []string) bool {
	return len(values) == 0 || (len(values) == 1 && values[0] == "")
}

// writeList writes a page of a list with the options echoed, each field filter as an array under its own name.
func writeList(w http.ResponseWriter, name string, items any, page api.Page, opts state.ListOptions) error {
	members := map[string]any{}
	for name, values := range opts.Filters {
		if !isEmptyFilter(values) {
			members[name] = values
		}
	}
	env := map[string]string{}
	for _, v := range opts.Env {
		env[v.Name] = v.Value
	}
	members[name] = items
	members["total"] = page.Total
	if page.TotalIsEstimate {
		members["total_is_estimate"] = true
	}
	members[paramLimit], members[paramOffset] = opts.Limit, opts.Offset
	members[paramSortBy], members[paramOrder] = opts.SortBy, opts.Order
	members["env_filters"] = env
	return writeJSON(w, members)
}
