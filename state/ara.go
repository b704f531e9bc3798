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
	// runtimeWindow and runtimeSample bound the history of EstimateRuntime. The window is that of kubernetes.md
	// (Placement). The sample fits in about one page of the index, because every submission reads it.
	runtimeWindow = 7 * 24 * time.Hour
	runtimeSample = 500
	// reattemptWindow is that of kubernetes.md (Placement).
	reattemptWindow = 18 * time.Minute
)

// EstimateRunResources returns what the next run of a command needs, by those of its runs that were killed for memory
// (ara.md, section 2). It reads the read-only database. It returns MissingResource if there are none, or if a standby
// cancelled the query in favour of replaying the primary's log.
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

// isRecoveryConflict reports whether a standby cancelled a query because it conflicted with recovery (data-model.md,
// Connections).
func isRecoveryConflict(err error) bool {
	var pgErr *pq.Error
	return errors.As(err, &pgErr) &&
		(pgErr.Code == pqerror.TRSerializationFailure || pgErr.Code == pqerror.TRDeadlockDetected)
}

// EstimateRuntime returns the 95th percentile, in minutes, of how long a command's newest runs of the last 7 days took,
// or MissingResource if there were none.
func (m *Manager) EstimateRuntime(ctx context.Context, executableID, commandHash string) (float64, error) {
	return history[float64](ctx, m, TaskRuntimeSelectCommandSQL,
		executableID, commandHash, runtimeWindow.Seconds(), runtimeSample)
}

// ReattemptRate returns the share, 0 to 1, of recent spot runs that needed more than one attempt.
func (m *Manager) ReattemptRate(ctx context.Context) (float64, error) {
	return history[float64](ctx, m, ReattemptRateSelectSQL, reattemptWindow.Seconds())
}

// EstimateExecutorCount returns how many executors sufficed for nearly all of a command's newest Spark runs, or
// MissingResource if there were none.
func (m *Manager) EstimateExecutorCount(ctx context.Context, executableID, commandHash string) (int64, error) {
	return history[int64](ctx, m, ExecutorCountSelectCommandSQL, m.sparkArgs(executableID, commandHash)...)
}

// ExecutorOOM reports whether an executor of one of a command's newest Spark runs was killed for memory.
func (m *Manager) ExecutorOOM(ctx context.Context, executableID, commandHash string) (bool, error) {
	return history[bool](ctx, m, ExecutorOOMSelectCommandSQL, m.sparkArgs(executableID, commandHash)...)
}

// DriverOOM reports whether the driver of one of a command's newest Spark runs was killed for memory.
func (m *Manager) DriverOOM(ctx context.Context, executableID, commandHash string) (bool, error) {
	return history[bool](ctx, m, DriverOOMSelectCommandSQL, m.sparkArgs(executableID, commandHash)...)
}

// sparkArgs returns the arguments of the queries on sparkHistorySQL.
func (m *Manager) sparkArgs(executableID, commandHash string) []any {
	return []any{executableID, commandHash, m.ara.Window.Seconds(), m.ara.Sample}
}

// history returns one value that a query reads in the read-only database. It returns MissingResource if the value is
// NULL, or a standby cancelled the query.
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

// ARAReport is what VerifyARA found among the runs queued since a time (ara.md, section 6).
type ARAReport struct {
	Since time.Time `db:"-" json:"since"`
	Runs  int64     `db:"runs" json:"runs"`

	// CommandsWithoutHash counts runs that have a command and no hash. It and the next two must be 0.
	CommandsWithoutHash int64 `db:"commands_without_hash" json:"commands_without_hash"`
	// WrongHashes counts runs whose hash is not the MD5 of their command.
	WrongHashes int64 `db:"wrong_hashes" json:"wrong_hashes"`
	// SharedHashes counts hashes that more than one distinct command has.
	SharedHashes int64 `db:"shared_hashes" json:"shared_hashes"`

	// WithoutCommand counts runs that have no command; ARA ignores them. It and the next three are for information.
	WithoutCommand int64 `db:"without_command" json:"without_command"`
	// OOMKills counts runs that ARA learns from.
	OOMKills int64 `db:"oom_kills" json:"oom_kills"`
	// Adjusted counts runs that got more memory than they and their definition asked for.
	Adjusted int64 `db:"adjusted" json:"adjusted"`
	// AtMaximum counts runs that got the maximum of memory or cpu.
	AtMaximum int64 `db:"at_maximum" json:"at_maximum"`
}

// Clean reports whether everything that must be 0 is.
func (r ARAReport) Clean() bool {
	return r.CommandsWithoutHash == 0 && r.WrongHashes == 0 && r.SharedHashes == 0
}

// Without ARA a run would get what it asked for, else what its definition or template has, but never less than the
// minimum. A definition may have changed since; this part of the report is for information.
const verifyARASQL = `
WITH recent AS (
	SELECT task.*,
		GREATEST(COALESCE(NULLIF(requested_memory, 0), NULLIF(task_def.memory, 0), NULLIF(template.memory, 0)),
			$2) AS default_memory
	FROM task
	LEFT JOIN task_def USING (definition_id)
	LEFT JOIN template ON template.template_id = task.definition_id
	WHERE task.queued_at > $1
), shared AS (
	SELECT command_hash
	FROM recent
	WHERE command_hash IS NOT NULL
	GROUP BY command_hash
	HAVING count(DISTINCT command) > 1
)
SELECT count(*) AS runs,
	count(*) FILTER (WHERE command <> '' AND command_hash IS NULL) AS commands_without_hash,
	count(*) FILTER (WHERE command_hash IS NOT NULL AND command_hash IS DISTINCT FROM md5(command)) AS wrong_hashes,
	(SELECT count(*) FROM shared) AS shared_hashes,
	count(*) FILTER (WHERE COALESCE(command, '') = '') AS without_command,
	count(*) FILTER (WHERE engine = 'eks' AND exit_code IS DISTINCT FROM 0
		AND (exit_code = 137 OR exit_reason = 'OOMKilled')) AS oom_kills,
	count(*) FILTER (WHERE status <> 'QUEUED' AND attempt_count IS NOT NULL AND COALESCE(gpu, 0) = 0
		AND memory > default_memory) AS adjusted,
	count(*) FILTER (WHERE status <> 'QUEUED' AND attempt_count IS NOT NULL
		AND (memory >= CASE WHEN gpu > 0 THEN CAST($4 AS bigint) ELSE $3 END
			OR cpu >= CASE WHEN gpu > 0 THEN CAST($6 AS bigint) ELSE $5 END)) AS at_maximum
FROM recent`

// VerifyARA checks the hashes of the runs queued after since, and reports what ARA did. It reads the primary.
func (m *Manager) VerifyARA(ctx context.Context, since time.Time) (ARAReport, error) {
	report := ARAReport{Since: since}
	err := m.db.GetContext(ctx, &report, verifyARASQL, since,
		m.ara.MinMemory, m.ara.MaxMemory, m.ara.MaxMemoryGPU, m.ara.MaxCPU, m.ara.MaxCPUGPU)
	return report, interpretError(err)
}
