package state

// The queries that estimate what a command needs from its history (ara.md, section 2). In each of them $1 is the
// executable's id and $2 the hash of the command itself: only runs of the very same command teach. They use indexes on
// (definition_id, command_hash, …), so their cost does not grow with the number of runs of a definition.

// TaskResourcesSelectCommandSQL selects memory in MB and cpu in millicores that the next run of a command needs, by its
// runs that were killed for memory. $3 is the window in seconds, $4 the number of newest kills that count, $5 and $6
// are the factors for memory and cpu. It selects NULLs if there was no such run.
const TaskResourcesSelectCommandSQL = `
SELECT CAST(percentile_disc(0.99) WITHIN GROUP (ORDER BY memory) * CAST($5 AS numeric) AS bigint) AS memory,
       CAST(percentile_disc(0.99) WITHIN GROUP (ORDER BY cpu) * CAST($6 AS numeric) AS bigint) AS cpu
FROM (
	SELECT memory, cpu
	FROM task
	WHERE engine = 'eks'
	  AND definition_id = $1
	  AND command_hash = $2
	  AND queued_at >= now() - make_interval(secs => $3)
	  AND (exit_code = 137 OR exit_reason = 'OOMKilled')
	  -- If a child was killed and the command survived, nothing more is needed.
	  AND exit_code IS DISTINCT FROM 0
	ORDER BY queued_at DESC
	LIMIT $4
) AS killed`

// TaskRuntimeSelectCommandSQL selects the 95th percentile, in minutes, of how long the newest $4 runs of a command took
// that started in the last $3 seconds. The number is bounded because every submission runs this query.
const TaskRuntimeSelectCommandSQL = `
SELECT CAST(EXTRACT(epoch FROM percentile_disc(0.95) WITHIN GROUP (ORDER BY finished_at - started_at)) / 60 AS float8) AS minutes
FROM (
	SELECT started_at, finished_at
	FROM task
	WHERE definition_id = $1
	  AND command_hash = $2
	  AND started_at >= now() - make_interval(secs => $3)
	  AND finished_at IS NOT NULL
	ORDER BY started_at DESC
	LIMIT $4
) AS ended`

// ReattemptRateSelectSQL selects the share, 0 to 1, of the spot runs queued in the last $1 seconds and begun since that
// needed more than one attempt. It concerns the nodes and not a command.
const ReattemptRateSelectSQL = `
SELECT COALESCE(avg(CASE WHEN attempt_count > 1 THEN 1.0 ELSE 0.0 END), 0) AS rate
FROM task
WHERE queued_at >= now() - make_interval(secs => $1)
  AND engine = 'eks'
  AND node_lifecycle = 'spot'
  AND attempt_count IS NOT NULL`

// sparkHistorySQL selects the newest $4 ended Spark runs of a command that started in the last $3 seconds.
const sparkHistorySQL = `
	SELECT spark_extension
	FROM task
	WHERE engine = 'eks-spark'
	  AND definition_id = $1
	  AND command_hash = $2
	  AND started_at >= now() - make_interval(secs => $3)
	  AND finished_at IS NOT NULL
	ORDER BY started_at DESC
	LIMIT $4`

// ExecutorCountSelectCommandSQL selects how many executors sufficed for nearly all Spark runs of a command.
const ExecutorCountSelectCommandSQL = `
SELECT percentile_disc(0.99) WITHIN GROUP (
	ORDER BY CAST(substring(spark_extension -> 'spark_submit_job_driver' ->> 'num_executors' FROM '^[0-9]{1,9}$') AS bigint)) AS executors
FROM (` + sparkHistorySQL + `) AS ended`

// ExecutorOOMSelectCommandSQL selects whether an executor of a Spark run of a command was killed for memory.
const ExecutorOOMSelectCommandSQL = `
SELECT COALESCE(bool_or(spark_extension -> 'executor_oom' = 'true'), false) AS oom
FROM (` + sparkHistorySQL + `) AS ended`

// DriverOOMSelectCommandSQL selects whether the driver of a Spark run of a command was killed for memory.
const DriverOOMSelectCommandSQL = `
SELECT COALESCE(bool_or(spark_extension -> 'driver_oom' = 'true'), false) AS oom
FROM (` + sparkHistorySQL + `) AS ended`
