package flotilla

import (
	"net/http"

	"github.com/stitchfix/flotilla-os/state"
)

type workersAnswer struct {
	Total   int            `json:"total"`
	Workers []state.Worker `json:"workers"`
}

func (e *endpoints) listWorkers(w http.ResponseWriter, r *http.Request) error {
	list, err := e.workers.List(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, workersAnswer{len(list), present(list)})
}

func (e *endpoints) getWorker(w http.ResponseWriter, r *http.Request) error {
	worker, err := e.workers.Get(r.Context(), state.WorkerType(pathParam(r, "worker_type")))
	if err != nil {
		return err
	}
	return writeJSON(w, worker)
}

// workerRequest sets how many workers of a type each server runs. An engine
// in the body is ignored: an update is for all engines.
type workerRequest struct {
	WorkerType       state.WorkerType `json:"worker_type"`
	CountPerInstance *int64           `json:"count_per_instance"`
}

func (b workerRequest) count() (int64, error) {
	if b.CountPerInstance == nil {
		return 0, state.Malformedf("the field count_per_instance is missing")
	}
	return *b.CountPerInstance, nil
}

func (e *endpoints) updateWorker(w http.ResponseWriter, r *http.Request) error {
	var body workerRequest
	if err := decodeBody(r, &body); err != nil {
		return err
	}
	count, err := body.count()
	if err != nil {
		return err
	}
	worker, err := e.workers.Update(r.Context(), state.WorkerType(pathParam(r, "worker_type")), count)
	if err != nil {
		return err
	}
	return writeJSON(w, worker)
}

func (e *endpoints) updateWorkers(w http.ResponseWriter, r *http.Request) error {
	var body []workerRequest
	if err := decodeBody(r, &body); err != nil {
		return err
	}
	workers := make([]state.Worker, len(body))
	for i, b := range body {
		count, err := b.count()
		if err != nil {
			return err
		}
		workers[i] = state.Worker{WorkerType: b.WorkerType, CountPerInstance: count}
	}
	list, err := e.workers.UpdateAll(r.Context(), workers)
	if err != nil {
		return err
	}
	return writeJSON(w, workersAnswer{len(list), present(list)})
}
