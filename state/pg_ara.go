package state

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

const (
	// runtimeWindow and runtimeSample bound the history of EstimateRuntime.
	// The window is kubernetes.md's (Placement); the sample is what one index
	// page or so holds, because every submission asks.
	runtimeWindow = 7 * 24 * time.Hour
	runtimeSample = 500
	// reattemptWindow is kubernetes.md's (Placement).
	reattemptWindow = 18 * time.Minute
)

// EstimateRunResources tells what the next run of a command needs, by those of
// its runs that were killed for memory: memory in MB, cpu in millicores
// (ara.md, section 2). It reads the read-only database. MissingResource where
// history says nothing, and where a standby cancelled the query in favour of
// replaying the primary's log; any other error is one.
func (m *Manager) EstimateRunResources(ctx context.Context, executableID, commandHash string) (Size, error) {
	var found struct {
		Memory *int64 `db:"memory"`
		CPU    *int64 `db:"cpu"`
	}
	err := m.lookup(ctx, &found, TaskResourcesSelectCommandSQL, executableID, commandHash,
		m.ara.Window.Seconds(), m.ara.Sample, m.ara.MemoryMultiplier, m.ara.CPUMultiplier)
	switch {
	case isRecoveryConflict(err):
		m.logger.InfoContext(ctx, "resource history was not read because the replica was busy",
			"definition_id", executableID, "command_hash", commandHash, "error", err)
		return Size{}, Missingf("the history of %s could not be read now", executableID)
	case err != nil:
		return Size{}, interpretError(err)
	case found.Memory == nil || found.CPU == nil:
		return Size{}, Missingf("no run of this command of %s was killed for memory", executableID)
	}
	return Size{Memory: *found.Memory, CPU: *found.CPU}, nil
}

// isRecoveryConflict reports whether a standby cancelled a query because it
// stood in the way of recovery (data-model.md, Connections).
func isRecoveryConflict(err error) bool {
	var pgErr *pq.Error
	return errors.As(err, &pgErr) &&
		(pgErr.Code == pqerror.TRSerializationFailure || pgErr.Code == pqerror.TRDeadlockDetected)
}

// EstimateRuntime is the 95th percentile, in minutes, of how long a command's
// newest runs of the last 7 days took. MissingResource where there were none.
func (m *Manager) EstimateRuntime(ctx context.Context, executableID, commandHash string) (float64, error) {
	return history[float64](ctx, m, TaskRuntimeSelectCommandSQL,
		executableID, commandHash, runtimeWindow.Seconds(), runtimeSample)
}

// ReattemptRate is the share, 0 to 1, of recent spot runs that needed more than
// one attempt.
func (m *Manager) ReattemptRate(ctx context.Context) (float64, error) {
	return history[float64](ctx, m, ReattemptRateSelectSQL, reattemptWindow.Seconds())
}

// EstimateExecutorCount is how many executors nearly all of a command's newest
// Spark runs were content with. MissingResource where there were none.
func (m *Manager) EstimateExecutorCount(ctx context.Context, executableID, commandHash string) (int64, error) {
	return history[int64](ctx, m, ExecutorCountSelectCommandSQL, m.sparkArgs(executableID, commandHash)...)
}

// ExecutorOOM reports whether an executor of one of a command's newest Spark
// runs was killed for memory.
func (m *Manager) ExecutorOOM(ctx context.Context, executableID, commandHash string) (bool, error) {
	return history[bool](ctx, m, ExecutorOOMSelectCommandSQL, m.sparkArgs(executableID, commandHash)...)
}

// DriverOOM reports whether the driver of one of a command's newest Spark runs
// was killed for memory.
func (m *Manager) DriverOOM(ctx context.Context, executableID, commandHash string) (bool, error) {
	return history[bool](ctx, m, DriverOOMSelectCommandSQL, m.sparkArgs(executableID, commandHash)...)
}

// sparkArgs are the arguments of the queries upon sparkHistorySQL.
func (m *Manager) sparkArgs(executableID, commandHash string) []any {
	return []any{executableID, commandHash, m.ara.Window.Seconds(), m.ara.Sample}
}

// history asks the read-only database for one value. MissingResource where it
// is NULL, or where a standby cancelled the query.
func history[T any](ctx context.Context, m *Manager, text string, args ...any) (T, error) {
	var found sql.Null[T]
	err := m.lookup(ctx, &found, text, args...)
	if err == nil && found.Valid {
		return found.V, nil
	}
	if err == nil || isRecoveryConflict(err) {
		return found.V, Missingf("there is no history to learn from")
	}
	return found.V, interpretError(err)
}
