package flotilla

import (
	"maps"
	"net/http"
	"slices"

	"github.com/stitchfix/flotilla-os/api"
	"github.com/stitchfix/flotilla-os/state"
)

func (e *endpoints) listClusters(w http.ResponseWriter, r *http.Request) error {
	list, err := e.clusters.List(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, api.ClusterList{Clusters: mapped(list, clusterAnswer)})
}

func (e *endpoints) getCluster(w http.ResponseWriter, r *http.Request) error {
	cluster, err := e.clusters.Get(r.Context(), pathParam(r, "cluster_id"))
	if err != nil {
		return err
	}
	return writeJSON(w, clusterAnswer(&cluster))
}

func (e *endpoints) createCluster(w http.ResponseWriter, r *http.Request) error {
	var body api.ClusterRequest
	if _, err := readJSON(w, r, &body); err != nil {
		return err
	}
	if err := e.clusters.Create(r.Context(), clusterOf(body)); err != nil {
		return err
	}
	return writeJSON(w, api.Created{Created: true})
}

func (e *endpoints) updateCluster(w http.ResponseWriter, r *http.Request) error {
	var body api.ClusterRequest
	sent, err := readJSON(w, r, &body)
	if err != nil {
		return err
	}
	maps.DeleteFunc(sent, func(_ string, value any) bool { return value == nil })
	update := state.ClusterUpdate{Cluster: clusterOf(body), Set: slices.Collect(maps.Keys(sent))}
	if err := e.clusters.Update(r.Context(), pathParam(r, "cluster_id"), update); err != nil {
		return err
	}
	return writeJSON(w, api.Updated{Updated: true})
}

func (e *endpoints) deleteCluster(w http.ResponseWriter, r *http.Request) error {
	if err := e.clusters.Delete(r.Context(), pathParam(r, "cluster_id")); err != nil {
		return err
	}
	return writeJSON(w, api.Deleted{Deleted: true})
}

func (e *endpoints) listWorkers(w http.ResponseWriter, r *http.Request) error {
	list, err := e.workers.List(r.Context())
	return writeWorkers(w, list, err)
}

func (e *endpoints) getWorker(w http.ResponseWriter, r *http.Request) error {
	worker, err := e.workers.Get(r.Context(), state.WorkerType(pathParam(r, "worker_type")))
	if err != nil {
		return err
	}
	return writeJSON(w, workerAnswer(&worker))
}

func (e *endpoints) updateWorker(w http.ResponseWriter, r *http.Request) error {
	var body api.WorkerRequest
	if _, err := readJSON(w, r, &body); err != nil {
		return err
	}
	if body.CountPerInstance == nil {
		return errNoCount
	}
	worker, err := e.workers.Update(r.Context(), state.WorkerType(pathParam(r, "worker_type")), *body.CountPerInstance)
	if err != nil {
		return err
	}
	return writeJSON(w, workerAnswer(&worker))
}

func (e *endpoints) updateWorkers(w http.ResponseWriter, r *http.Request) error {
	var body []api.WorkerRequest
	if _, err := readJSON(w, r, &body); err != nil {
		return err
	}
	workers := make([]state.Worker, len(body))
	for i, b := range body {
		if b.CountPerInstance == nil {
			return errNoCount
		}
		workers[i] = state.Worker{WorkerType: state.WorkerType(b.WorkerType), CountPerInstance: *b.CountPerInstance}
	}
	list, err := e.workers.UpdateAll(r.Context(), workers)
	return writeWorkers(w, list, err)
}

var errNoCount = state.Malformedf("the field count_per_instance is missing")

func writeWorkers(w http.ResponseWriter, list []state.Worker, err error) error {
	if err != nil {
		return err
	}
	return writeJSON(w, api.WorkerList{Total: len(list), Workers: mapped(list, workerAnswer)})
}
