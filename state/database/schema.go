package database

// column is a column that an existing table may lack, and its type.
type column struct{ name, definition string }

// migration adds to one table what the program needs. An existing table keeps its columns as they are. It locks nothing
// if nothing is missing, and never two tables in one transaction.
type migration struct {
	table string
	// create makes the table if it does not exist. Columns that existing databases may lack are not part of it.
	create  string
	columns []column
	// finish is run afterwards, in the same transaction, if not empty.
	finish string
}

// migrations are applied in order, each in a transaction of its own; the version of each is its place in the list, from
// 1. Append only. The tables and columns are those of existing Flotilla databases by name and type (data-model.md,
// Tables today), apart from the columns marked as ours. Indexes other than keys are built beside the running program,
// see indexes.go.
var migrations = []migration{
	{
		table: "task_def",
		create: `CREATE TABLE task_def (
			definition_id varchar PRIMARY KEY,
			alias varchar UNIQUE,
			image varchar NOT NULL,
			group_name varchar NOT NULL
		)`,
		columns: []column{
			{`memory`, `integer`},
			{`cpu`, `integer`},
			{`gpu`, `integer`},
			{`command`, `text`},
			{`env`, `jsonb`},
			{`user`, `varchar`},
			{`arn`, `varchar`},
			{`container_name`, `varchar`},
			{`task_type`, `varchar`},
			{`privileged`, `boolean`},
			{`adaptive_resource_allocation`, `boolean`},
			{`ephemeral_storage`, `integer`},
			{`requires_docker`, `boolean DEFAULT false`},
			{`target_cluster`, `varchar`},
		},
	},
	{
		table: "task_def_ports",
		create: `CREATE TABLE task_def_ports (
			task_def_id varchar NOT NULL REFERENCES task_def (definition_id),
			port integer NOT NULL,
			PRIMARY KEY (task_def_id, port)
		)`,
	},
	{table: "tags", create: `CREATE TABLE tags (text varchar PRIMARY KEY)`},
	{
		table: "task_def_tags",
		create: `CREATE TABLE task_def_tags (
			tag_id varchar NOT NULL REFERENCES tags (text),
			task_def_id varchar NOT NULL REFERENCES task_def (definition_id)
		)`,
	},
	{
		table:  "task",
		create: `CREATE TABLE task (run_id varchar PRIMARY KEY)`,
		columns: []column{
			{`definition_id`, `varchar`},
			{`alias`, `varchar`},
			{`image`, `varchar`},
			{`cluster_name`, `varchar`},
			{`exit_code`, `integer`},
			{`exit_reason`, `varchar`},
			{`status`, `varchar`},
			{`queued_at`, `timestamptz`},
			{`started_at`, `timestamptz`},
			{`finished_at`, `timestamptz`},
			{`instance_id`, `varchar`},
			{`instance_dns_name`, `varchar`},
			{`group_name`, `varchar`},
			{`env`, `jsonb`},
			{`task_arn`, `varchar`},
			{`docker_id`, `varchar`},
			{`user`, `varchar`},
			{`task_type`, `varchar`},
			{`command`, `text`},
			{`command_hash`, `text`},
			{`memory`, `integer`},
			{`cpu`, `integer`},
			{`gpu`, `integer`},
			{`ephemeral_storage`, `integer`},
			{`node_lifecycle`, `text`},
			{`engine`, `varchar NOT NULL DEFAULT 'eks'`},
			{`container_name`, `text`},
			{`pod_name`, `text`},
			{`namespace`, `text`},
			{`max_cpu_used`, `integer`},
			{`max_memory_used`, `integer`},
			{`pod_events`, `jsonb`},
			{`cloudtrail_notifications`, `jsonb`},
			{`spark_extension`, `jsonb`},
			{`executable_id`, `varchar`},
			{`executable_type`, `varchar DEFAULT 'task_definition'`},
			{`execution_request_custom`, `jsonb`},
			{`memory_limit`, `integer`},
			{`cpu_limit`, `integer`},
			{`attempt_count`, `integer`},
			{`spawned_runs`, `jsonb`},
			{`run_exceptions`, `jsonb`},
			{`metrics_uri`, `varchar`},
			{`active_deadline_seconds`, `integer`},
			{`description`, `varchar`},
			{`idempotence_key`, `varchar`},
			{`arch`, `varchar`},
			{`labels`, `jsonb`},
			{`requires_docker`, `boolean DEFAULT false`},
			{`service_account`, `varchar`},
			{`tier`, `text`},
			// Ours from here on.
			{`claimed_by`, `text`},
			{`claimed_until`, `timestamptz`},
			{`next_attempt_at`, `timestamptz`},
			{`requested_memory`, `integer`},
			{`requested_cpu`, `integer`},
			{`status_reason`, `text`},
		},
	},
	{table: "task", finish: dropForeignKeySQL},
	{table: "task", finish: setStorageSQL},
	{
		table: "template",
		create: `CREATE TABLE template (
			template_id varchar PRIMARY KEY,
			template_name varchar NOT NULL,
			version integer NOT NULL,
			memory integer NOT NULL,
			gpu integer NOT NULL,
			cpu integer NOT NULL,
			container_name varchar NOT NULL,
			UNIQUE (template_name, version)
		)`,
		columns: []column{
			{`schema`, `jsonb`},
			{`command_template`, `text`},
			{`image`, `varchar`},
			{`env`, `jsonb`},
			{`privileged`, `boolean`},
			{`adaptive_resource_allocation`, `boolean`},
			{`defaults`, `jsonb`},
			{`avatar_uri`, `varchar`},
			// Ours from here on.
			{`ports`, `jsonb`},
			{`tags`, `jsonb`},
			{`ephemeral_storage`, `integer`},
		},
	},
	{
		table: "worker",
		create: `CREATE TABLE worker (
			worker_type varchar,
			engine varchar,
			count_per_instance integer
		)`,
	},
	{
		table: "cluster_state",
		create: `DO $$
			BEGIN
				CREATE TYPE cluster_status AS ENUM ('active', 'maintenance', 'offline');
			EXCEPTION WHEN duplicate_object THEN
				NULL; -- An existing database has it.
			END
			$$;
			CREATE TABLE cluster_state (
				id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
				name varchar NOT NULL,
				region varchar NOT NULL
			)`,
		columns: []column{
			{`cluster_version`, `varchar NOT NULL DEFAULT ''`},
			{`status`, `cluster_status NOT NULL DEFAULT 'active'`},
			{`status_reason`, `varchar`},
			{`status_since`, `timestamptz`},
			{`capabilities`, `varchar[] NOT NULL DEFAULT '{}'`},
			{`allowed_tiers`, `varchar[] NOT NULL DEFAULT '{}'`},
			{`updated_at`, `timestamptz`},
			{`namespace`, `varchar NOT NULL DEFAULT ''`},
			{`emr_virtual_cluster`, `varchar NOT NULL DEFAULT ''`},
			{`spark_server_uri`, `varchar NOT NULL DEFAULT ''`},
			// Ours from here on.
			{`driver`, `text`},
		},
	},
	{
		// It records the servers that execute runs themselves, and the last heartbeat of each.
		table: "flotilla_node",
		create: `CREATE TABLE flotilla_node (
			node text PRIMARY KEY,
			host text NOT NULL,
			seen_at timestamptz NOT NULL
		)`,
	},
	{
		// It records the first start of this program on the database, which takes over the queue of the old program.
		table: "flotilla_start",
		create: `CREATE TABLE flotilla_start (
			singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
			first_at timestamptz NOT NULL
		)`,
	},
}

// dropForeignKeySQL drops the foreign key from a run to its definition, whose name differs between installations. It
// makes every run of a template fail, because a template is no definition. Dropping it locks task and then task_def, as
// an INSERT does; the lock timeout, which is shorter than the server's deadlock_timeout, ends it if another takes them
// the other way.
const dropForeignKeySQL = `DO $$
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
$$`

// setStorageSQL makes room for updates. Every run is updated a handful of times soon after its insert and then never
// again: free space in its page keeps its versions together, and a vacuum after a fixed number of changes keeps the
// queue's dead versions few however large the history has grown. It blocks neither readers nor writers.
const setStorageSQL = `DO $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_class WHERE oid = 'task'::regclass AND 'fillfactor=85' = ANY(reloptions)) THEN
		ALTER TABLE task SET (
			fillfactor = 85,
			autovacuum_vacuum_scale_factor = 0.01,
			autovacuum_vacuum_threshold = 5000,
			autovacuum_analyze_scale_factor = 0.01,
			autovacuum_analyze_threshold = 5000,
			autovacuum_vacuum_insert_scale_factor = 0.01,
			autovacuum_vacuum_insert_threshold = 10000
		);
	END IF;
END
$$`
