package state

import (
	"context"
	"time"
)

// ARAReport is what VerifyARA found among the runs queued since a time
// (ara.md, section 6).
type ARAReport struct {
	Since time.Time `db:"-" json:"since"`
	Runs  int64     `db:"runs" json:"runs"`

	// What must be 0.

	// CommandsWithoutHash counts runs that have a command and no hash.
	CommandsWithoutHash int64 `db:"commands_without_hash" json:"commands_without_hash"`
	// WrongHashes counts runs whose hash is not the MD5 of their command.
	WrongHashes int64 `db:"wrong_hashes" json:"wrong_hashes"`
	// SharedHashes counts hashes that more than one distinct command has.
	SharedHashes int64 `db:"shared_hashes" json:"shared_hashes"`

	// What is good to know.

	// WithoutCommand counts runs that have no command; ARA leaves them alone.
	WithoutCommand int64 `db:"without_command" json:"without_command"`
	// OOMKills counts runs that teach ARA.
	OOMKills int64 `db:"oom_kills" json:"oom_kills"`
	// Adjusted counts runs that were given more memory than they and their
	// definition asked for.
	Adjusted int64 `db:"adjusted" json:"adjusted"`
	// AtMaximum counts runs that were given the most memory or cpu there is.
	AtMaximum int64 `db:"at_maximum" json:"at_maximum"`
}

// Clean reports whether everything that must be 0 is.
func (r ARAReport) Clean() bool {
	return r.CommandsWithoutHash == 0 && r.WrongHashes == 0 && r.SharedHashes == 0
}

// What a run would be given without ARA is what it asked for, else what its
// definition or template says, but never less than the minimum. A definition
// may have changed since; this part of the report is for information.
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

// VerifyARA checks the hashes of the runs queued after since, and says what
// ARA did. It reads the primary.
func (m *Manager) VerifyARA(ctx context.Context, since time.Time) (ARAReport, error) {
	report := ARAReport{Since: since}
	err := m.db.GetContext(ctx, &report, verifyARASQL, since,
		m.ara.MinMemory, m.ara.MaxMemory, m.ara.MaxMemoryGPU, m.ara.MaxCPU, m.ara.MaxCPUGPU)
	return report, interpretError(err)
}
