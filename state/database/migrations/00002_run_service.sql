-- What this program adds to the tables of an existing Flotilla database. The
-- old program ignores all of it.

-- +goose Up
ALTER TABLE task
	ADD COLUMN IF NOT EXISTS claimed_by text,
	ADD COLUMN IF NOT EXISTS claimed_until timestamptz,
	ADD COLUMN IF NOT EXISTS next_attempt_at timestamptz,
	ADD COLUMN IF NOT EXISTS requested_memory integer,
	ADD COLUMN IF NOT EXISTS requested_cpu integer,
	ADD COLUMN IF NOT EXISTS status_reason text;

ALTER TABLE template
	ADD COLUMN IF NOT EXISTS ports jsonb,
	ADD COLUMN IF NOT EXISTS tags jsonb,
	ADD COLUMN IF NOT EXISTS ephemeral_storage integer;

ALTER TABLE cluster_state
	ADD COLUMN IF NOT EXISTS driver text;

-- The servers that execute runs themselves, and when each was last alive.
CREATE TABLE IF NOT EXISTS flotilla_node (
	node text PRIMARY KEY,
	host text NOT NULL,
	seen_at timestamptz NOT NULL
);

-- The foreign key from a run to its definition makes every run of a template
-- fail, because a template is no definition. Its name differs between
-- installations.
-- +goose StatementBegin
DO $$
DECLARE
	fk name;
BEGIN
	FOR fk IN
		SELECT conname FROM pg_constraint
		WHERE contype = 'f' AND conrelid = 'task'::regclass AND confrelid = 'task_def'::regclass
	LOOP
		EXECUTE format('ALTER TABLE task DROP CONSTRAINT %I', fk);
	END LOOP;
END
$$;
-- +goose StatementEnd

-- Every run is updated a handful of times soon after its insert and then never
-- again. Room in its page keeps its versions together, and a vacuum after a
-- fixed number of changes keeps the queue's dead versions few however large
-- the history has grown.
ALTER TABLE task SET (
	fillfactor = 85,
	autovacuum_vacuum_scale_factor = 0.01,
	autovacuum_vacuum_threshold = 5000,
	autovacuum_analyze_scale_factor = 0.01,
	autovacuum_analyze_threshold = 5000,
	autovacuum_vacuum_insert_scale_factor = 0.01,
	autovacuum_vacuum_insert_threshold = 10000
);
