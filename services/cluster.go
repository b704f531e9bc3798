package services

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/stitchfix/flotilla-os/state"
)

// ClusterStore is the database as the ClusterService uses it: the rows only.
type ClusterStore interface {
	ListClusters(ctx context.Context) ([]state.Cluster, error)
	GetCluster(ctx context.Context, id string) (state.Cluster, error)
	CreateCluster(ctx context.Context, c state.Cluster) error
	UpdateCluster(ctx context.Context, id string, u state.ClusterUpdate) error
	DeleteCluster(ctx context.Context, id string) error
}

// ClusterConfig is what a ClusterService needs.
type ClusterConfig struct {
	Store ClusterStore
	// Configured lists the clusters of the configuration and that of the local driver. The service cannot change them.
	Configured []state.Cluster
	Logger     *slog.Logger
	Clock      func() time.Time
}

// ClusterService lists and changes the clusters (rest-api.md, Cluster).
type ClusterService struct {
	c     ClusterConfig
	known *cache[[]state.Cluster]
}

// NewClusterService returns the service.
func NewClusterService(c ClusterConfig) (*ClusterService, error) {
	if c.Store == nil || c.Logger == nil || c.Clock == nil {
		return nil, errors.New("services: clusters need a store, a logger and a clock")
	}
	configured := firstOfName(c.Configured)
	for i := range configured {
		configured[i].ID = state.ConfigClusterPrefix + configured[i].Name
		if configured[i].Status == "" {
			configured[i].Status = state.ClusterActive
		}
	}
	c.Configured = configured
	return &ClusterService{c: c, known: newCache[[]state.Cluster](c.Clock, 1, 0)}, nil
}

// List returns every cluster: those of the configuration that have no row, then the rows by id. A row takes precedence
// because it holds more (status, tiers).
func (s *ClusterService) List(ctx context.Context) ([]state.Cluster, error) {
	rows, err := s.c.Store.ListClusters(ctx)
	if err != nil {
		return nil, err
	}
	all := []state.Cluster{}
	for _, c := range s.c.Configured {
		if !slices.ContainsFunc(rows, func(row state.Cluster) bool { return row.Name == c.Name }) {
			all = append(all, c)
		}
	}
	return append(all, rows...), nil
}

// Get returns a cluster; state.MissingResource if there is none, and for an id that is no number.
func (s *ClusterService) Get(ctx context.Context, id string) (state.Cluster, error) {
	if c, ok := s.configured(id); ok {
		return c, nil
	}
	if err := checkClusterID(id); err != nil {
		return state.Cluster{}, err
	}
	return s.c.Store.GetCluster(ctx, id)
}

// Create stores a cluster. Errors: state.MalformedInput, state.ConflictingResource if the name is taken.
func (s *ClusterService) Create(ctx context.Context, c state.Cluster) error {
	var f faults
	if missing := missingOf(named{"name", c.Name == ""}, named{"region", c.Region == ""}); missing != "" {
		f.addf("a cluster needs %s", missing)
	}
	if c.Status == "" {
		c.Status = state.ClusterActive
	}
	c.ID = ""
	f.clusterStatus(c.Status)
	f.cluster(c)
	if err := f.err(); err != nil {
		return err
	}
	if err := s.checkConfiguredName(c.Name); err != nil {
		return err
	}
	if err := s.c.Store.CreateCluster(ctx, c); err != nil {
		return err
	}
	s.known.drop("")
	audit(ctx, s.c.Logger, eventClusterCreated, "", "cluster", c.Name)
	return nil
}

// Update changes the fields that u names. Errors as of Create, state.MissingResource, and state.ConflictingResource for
// a cluster of the configuration.
func (s *ClusterService) Update(ctx context.Context, id string, u state.ClusterUpdate) error {
	if err := s.checkWritable(id); err != nil {
		return err
	}
	var f faults
	for _, needed := range []struct{ field, value string }{{"name", u.Name}, {"region", u.Region}} {
		if slices.Contains(u.Set, needed.field) && needed.value == "" {
			f.addf("%s must not be empty", needed.field)
		}
	}
	if slices.Contains(u.Set, "status") {
		f.clusterStatus(u.Status)
	}
	f.cluster(u.Cluster)
	if err := f.err(); err != nil {
		return err
	}
	if slices.Contains(u.Set, "name") {
		if err := s.checkRename(ctx, id, u.Name); err != nil {
			return err
		}
	}
	if err := s.c.Store.UpdateCluster(ctx, id, u); err != nil {
		return err
	}
	s.known.drop("")
	audit(ctx, s.c.Logger, eventClusterUpdated, "", "cluster_id", id)
	return nil
}

// Delete removes a cluster. Errors as of Update.
func (s *ClusterService) Delete(ctx context.Context, id string) error {
	if err := s.checkWritable(id); err != nil {
		return err
	}
	if err := s.c.Store.DeleteCluster(ctx, id); err != nil {
		return err
	}
	s.known.drop("")
	audit(ctx, s.c.Logger, eventClusterDeleted, "", "cluster_id", id)
	return nil
}

// missAge is the maximum age of the cached list if it lacks a name.
const missAge = time.Second

// Known returns the clusters by name, at most 10 s old. Of rows with one name, it returns the one with the lowest id.
// If the list lacks one of the names, which another server may just have stored, it is read again, once a second at
// most.
func (s *ClusterService) Known(ctx context.Context, names ...string) (known []state.Cluster, err error) {
	for _, age := range []time.Duration{cacheAge, missAge} {
		all, err := s.known.get(ctx, "", age, s.List)
		if err != nil {
			return nil, err
		}
		known = firstOfName(all)
		missing := slices.ContainsFunc(names, func(name string) bool {
			return name != "" && !slices.ContainsFunc(known, func(c state.Cluster) bool { return c.Name == name })
		})
		if !missing {
			break
		}
	}
	return known, nil
}

func (s *ClusterService) configured(id string) (state.Cluster, bool) {
	for _, c := range s.c.Configured {
		if c.ID == id {
			return c, true
		}
	}
	return state.Cluster{}, false
}

func (s *ClusterService) checkConfiguredName(name string) error {
	for _, c := range s.c.Configured {
		if c.Name == name {
			return state.Conflictingf("the configuration already has a cluster %q", name)
		}
	}
	return nil
}

// checkRename returns an error if another name is one of the configuration's. A row may keep its name.
func (s *ClusterService) checkRename(ctx context.Context, id, name string) error {
	now, err := s.c.Store.GetCluster(ctx, id)
	if err != nil || now.Name == name {
		return err
	}
	return s.checkConfiguredName(name)
}

func (s *ClusterService) checkWritable(id string) error {
	if c, ok := s.configured(id); ok {
		return state.Conflictingf("cluster %q comes from the configuration and can only be changed there", c.Name)
	}
	return checkClusterID(id)
}

func checkClusterID(id string) error {
	if n, err := strconv.ParseInt(id, 10, 64); err != nil || strconv.FormatInt(n, 10) != id {
		return state.Missingf("there is no cluster %q", id)
	}
	return nil
}

// firstOfName returns the first cluster of each name.
func firstOfName(all []state.Cluster) []state.Cluster {
	seen := map[string]bool{}
	var out []state.Cluster
	for _, c := range all {
		if !seen[c.Name] {
			seen[c.Name] = true
			out = append(out, c)
		}
	}
	return out
}
