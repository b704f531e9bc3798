package database

// The keys of the advisory locks of migrations and index builds.
const (
	MigrationLock = migrationLock
	IndexLock     = indexLock
)
