package flotilla

import (
	"context"
	"net/http"

	"github.com/stitchfix/flotilla-os/state"
)

type groupsAnswer struct {
	Total  int      `json:"total"`
	Groups []string `json:"groups"`
	Limit  int      `json:"limit"`
	Offset int      `json:"offset"`
}

func (e *endpoints) listGroups(w http.ResponseWriter, r *http.Request) error {
	list, limit, offset, err := listNames(r, e.definitions.Groups)
	if err != nil {
		return err
	}
	return writeJSON(w, groupsAnswer{list.Total, present(list.Names), limit, offset})
}

type tagsAnswer struct {
	Total  int      `json:"total"`
	Tags   []string `json:"tags"`
	Limit  int      `json:"limit"`
	Offset int      `json:"offset"`
}

func (e *endpoints) listTags(w http.ResponseWriter, r *http.Request) error {
	list, limit, offset, err := listNames(r, e.definitions.Tags)
	if err != nil {
		return err
	}
	return writeJSON(w, tagsAnswer{list.Total, present(list.Names), limit, offset})
}

type namesFunc func(ctx context.Context, limit, offset int, name string) (state.NameList, error)

func listNames(r *http.Request, find namesFunc) (list state.NameList, limit, offset int, err error) {
	query := r.URL.Query()
	if limit, offset, err = pageOf(query); err != nil {
		return list, 0, 0, err
	}
	list, err = find(r.Context(), limit, offset, query.Get(paramName))
	return list, limit, offset, err
}
