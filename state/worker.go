package state

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"

	"github.com/jmoiron/sqlx"

	"github.com/stitchfix/flotilla-os/config"
)

// WorkerType names one of the loops that move runs through their life.
type WorkerType string

const (
	// WorkerSubmit claims queued runs and hands them to their cluster.
	WorkerSubmit WorkerType = config.WorkerSubmit
	// WorkerRetry puts runs that their cluster failed back in the queue.
	WorkerRetry WorkerType = config.WorkerRetry
	// WorkerStatus follows the clusters and records what happens there.
	WorkerStatus WorkerType = config.WorkerStatus
)

// WorkerTypes lists every worker type.
var WorkerTypes = []WorkerType{WorkerRetry, WorkerSubmit, WorkerStatus}

// Worker is how many workers of a type each server runs.
type Worker struct {
	WorkerType       WorkerType `db:"worker_type"`
	CountPerInstance int64      `db:"count_per_instance"`
	Engine           string     `db:"engine"`
}

// selectWorkersSQL reads one row for each type and engine. The table has no key, and every start of the old program
// inserted its rows again, with the count of its configuration; an update sets all of them. The largest count is taken,
// so that such a start never undoes a raised count.
const selectWorkersSQL = `
SELECT worker_type, engine, COALESCE(max(count_per_instance), 0) AS count_per_instance
FROM worker
WHERE engine = $1 AND ($2 = '' OR worker_type = $2) AND worker_type IS NOT NULL
GROUP BY worker_type, engine
ORDER BY worker_type`

// ListWorkers returns the workers of an engine, one for each type.
func (m *Manager) ListWorkers(ctx context.Context, engine string) ([]Worker, error) {
	workers := []Worker{}
	err := m.db.SelectContext(ctx, &workers, selectWorkersSQL, engine, "")
	return workers, interpretError(err)
}

// GetWorker returns the worker of that type and engine, or MissingResource.
func (m *Manager) GetWorker(ctx context.Context, engine string, t WorkerType) (Worker, error) {
	var w Worker
	err := m.db.GetContext(ctx, &w, selectWorkersSQL, engine, t)
	if errors.Is(err, sql.ErrNoRows) {
		return Worker{}, Missingf("there is no worker of type %q", t)
	}
	return w, interpretError(err)
}

// lockWorkers keeps two servers from inserting the same row at once.
const lockWorkers = `LOCK TABLE worker IN SHARE ROW EXCLUSIVE MODE`

const insertWorkerSQL = `
INSERT INTO worker (worker_type, engine, count_per_instance)
SELECT $1::varchar, $2::varchar, $3::int
WHERE NOT EXISTS (SELECT FROM worker WHERE worker_type = $1 AND engine = $2)`

// UpdateWorkers sets the counts of the types that workers name, for all engines.
func (m *Manager) UpdateWorkers(ctx context.Context, workers []Worker) error {
	return m.transact(ctx, func(tx *sqlx.Tx) error {
		if _, err := tx.ExecContext(ctx, lockWorkers); err != nil {
			return err
		}
		for _, w := range workers {
			_, err := tx.ExecContext(ctx,
				`UPDATE worker SET count_per_instance = $2 WHERE worker_type = $1`, w.WorkerType, w.CountPerInstance)
			if err != nil {
				return err
			}
			// A type without a row gets one.
			if _, err := tx.ExecContext(ctx, insertWorkerSQL, w.WorkerType, EKSEngine, w.CountPerInstance); err != nil {
				return err
			}
		}
		return nil
	})
}

// EnsureWorkers inserts what is missing of counts, by engine and type. Existing rows keep their counts.
func (m *Manager) EnsureWorkers(ctx context.Context, counts map[string]map[string]int) error {
	return m.transact(ctx, func(tx *sqlx.Tx) error {
		if _, err := tx.ExecContext(ctx, lockWorkers); err != nil {
			return err
		}
		for _, engine := range slices.Sorted(maps.Keys(counts)) {
			for _, t := range slices.Sorted(maps.Keys(counts[engine])) {
				if _, err := tx.ExecContext(ctx, insertWorkerSQL, t, engine, counts[engine][t]); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
