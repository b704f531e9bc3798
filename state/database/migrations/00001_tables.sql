-- Tables and columns of existing Flotilla databases, by the names and types
-- that they have there. A database that has some of them keeps these as they
-- are and gets the rest.
--
-- The migrations of this folder only add, and hold no index but those of the
-- keys: indexes are built beside the running program, see pg_indexes.go.

-- +goose Up
CREATE TABLE IF NOT EXISTS task_def (
	definition_id varchar PRIMARY KEY,
	alias varchar UNIQUE,
	image varchar NOT NULL,
	group_name varchar NOT NULL
);
ALTER TABLE task_def
	ADD COLUMN IF NOT EXISTS memory integer,
	ADD COLUMN IF NOT EXISTS cpu integer,
	ADD COLUMN IF NOT EXISTS gpu integer,
	ADD COLUMN IF NOT EXISTS command text,
	ADD COLUMN IF NOT EXISTS env jsonb,
	ADD COLUMN IF NOT EXISTS "user" varchar,
	ADD COLUMN IF NOT EXISTS arn varchar,
	ADD COLUMN IF NOT EXISTS container_name varchar,
	ADD COLUMN IF NOT EXISTS task_type varchar,
	ADD COLUMN IF NOT EXISTS privileged boolean,
	ADD COLUMN IF NOT EXISTS adaptive_resource_allocation boolean,
	ADD COLUMN IF NOT EXISTS ephemeral_storage integer,
	ADD COLUMN IF NOT EXISTS requires_docker boolean DEFAULT false,
	ADD COLUMN IF NOT EXISTS target_cluster varchar;

CREATE TABLE IF NOT EXISTS task_def_ports (
	task_def_id varchar NOT NULL REFERENCES task_def (definition_id),
	port integer NOT NULL,
	PRIMARY KEY (task_def_id, port)
);

CREATE TABLE IF NOT EXISTS tags (
	text varchar PRIMARY KEY
);

CREATE TABLE IF NOT EXISTS task_def_tags (
	tag_id varchar NOT NULL REFERENCES tags (text),
	task_def_id varchar NOT NULL REFERENCES task_def (definition_id)
);

CREATE TABLE IF NOT EXISTS task (
	run_id varchar PRIMARY KEY
);
ALTER TABLE task
	ADD COLUMN IF NOT EXISTS definition_id varchar,
	ADD COLUMN IF NOT EXISTS alias varchar,
	ADD COLUMN IF NOT EXISTS image varchar,
	ADD COLUMN IF NOT EXISTS cluster_name varchar,
	ADD COLUMN IF NOT EXISTS exit_code integer,
	ADD COLUMN IF NOT EXISTS exit_reason varchar,
	ADD COLUMN IF NOT EXISTS status varchar,
	ADD COLUMN IF NOT EXISTS queued_at timestamptz,
	ADD COLUMN IF NOT EXISTS started_at timestamptz,
	ADD COLUMN IF NOT EXISTS finished_at timestamptz,
	ADD COLUMN IF NOT EXISTS instance_id varchar,
	ADD COLUMN IF NOT EXISTS instance_dns_name varchar,
	ADD COLUMN IF NOT EXISTS group_name varchar,
	ADD COLUMN IF NOT EXISTS env jsonb,
	ADD COLUMN IF NOT EXISTS task_arn varchar,
	ADD COLUMN IF NOT EXISTS docker_id varchar,
	ADD COLUMN IF NOT EXISTS "user" varchar,
	ADD COLUMN IF NOT EXISTS task_type varchar,
	ADD COLUMN IF NOT EXISTS command text,
	ADD COLUMN IF NOT EXISTS command_hash text,
	ADD COLUMN IF NOT EXISTS memory integer,
	ADD COLUMN IF NOT EXISTS cpu integer,
	ADD COLUMN IF NOT EXISTS gpu integer,
	ADD COLUMN IF NOT EXISTS ephemeral_storage integer,
	ADD COLUMN IF NOT EXISTS node_lifecycle text,
	ADD COLUMN IF NOT EXISTS engine varchar NOT NULL DEFAULT 'eks',
	ADD COLUMN IF NOT EXISTS container_name text,
	ADD COLUMN IF NOT EXISTS pod_name text,
	ADD COLUMN IF NOT EXISTS namespace text,
	ADD COLUMN IF NOT EXISTS max_cpu_used integer,
	ADD COLUMN IF NOT EXISTS max_memory_used integer,
	ADD COLUMN IF NOT EXISTS pod_events jsonb,
	ADD COLUMN IF NOT EXISTS cloudtrail_notifications jsonb,
	ADD COLUMN IF NOT EXISTS spark_extension jsonb,
	ADD COLUMN IF NOT EXISTS executable_id varchar,
	ADD COLUMN IF NOT EXISTS executable_type varchar DEFAULT 'task_definition',
	ADD COLUMN IF NOT EXISTS execution_request_custom jsonb,
	ADD COLUMN IF NOT EXISTS memory_limit integer,
	ADD COLUMN IF NOT EXISTS cpu_limit integer,
	ADD COLUMN IF NOT EXISTS attempt_count integer,
	ADD COLUMN IF NOT EXISTS spawned_runs jsonb,
	ADD COLUMN IF NOT EXISTS run_exceptions jsonb,
	ADD COLUMN IF NOT EXISTS metrics_uri varchar,
	ADD COLUMN IF NOT EXISTS active_deadline_seconds integer,
	ADD COLUMN IF NOT EXISTS description varchar,
	ADD COLUMN IF NOT EXISTS idempotence_key varchar,
	ADD COLUMN IF NOT EXISTS arch varchar,
	ADD COLUMN IF NOT EXISTS labels jsonb,
	ADD COLUMN IF NOT EXISTS requires_docker boolean DEFAULT false,
	ADD COLUMN IF NOT EXISTS service_account varchar,
	ADD COLUMN IF NOT EXISTS tier text;

CREATE TABLE IF NOT EXISTS template (
	template_id varchar PRIMARY KEY,
	template_name varchar NOT NULL,
	version integer NOT NULL,
	memory integer NOT NULL,
	gpu integer NOT NULL,
	cpu integer NOT NULL,
	container_name varchar NOT NULL,
	UNIQUE (template_name, version)
);
ALTER TABLE template
	ADD COLUMN IF NOT EXISTS schema jsonb,
	ADD COLUMN IF NOT EXISTS command_template text,
	ADD COLUMN IF NOT EXISTS image varchar,
	ADD COLUMN IF NOT EXISTS env jsonb,
	ADD COLUMN IF NOT EXISTS privileged boolean,
	ADD COLUMN IF NOT EXISTS adaptive_resource_allocation boolean,
	ADD COLUMN IF NOT EXISTS defaults jsonb,
	ADD COLUMN IF NOT EXISTS avatar_uri varchar;

CREATE TABLE IF NOT EXISTS worker (
	worker_type varchar,
	engine varchar,
	count_per_instance integer
);

-- +goose StatementBegin
DO $$
BEGIN
	CREATE TYPE cluster_status AS ENUM ('active', 'maintenance', 'offline');
EXCEPTION WHEN duplicate_object THEN
	NULL; -- An existing database has it.
END
$$;
-- +goose StatementEnd

CREATE TABLE IF NOT EXISTS cluster_state (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name varchar NOT NULL,
	region varchar NOT NULL
);
ALTER TABLE cluster_state
	ADD COLUMN IF NOT EXISTS cluster_version varchar NOT NULL DEFAULT '',
	ADD COLUMN IF NOT EXISTS status cluster_status NOT NULL DEFAULT 'active',
	ADD COLUMN IF NOT EXISTS status_reason varchar,
	ADD COLUMN IF NOT EXISTS status_since timestamptz,
	ADD COLUMN IF NOT EXISTS capabilities varchar[] NOT NULL DEFAULT '{}',
	ADD COLUMN IF NOT EXISTS allowed_tiers varchar[] NOT NULL DEFAULT '{}',
	ADD COLUMN IF NOT EXISTS updated_at timestamptz,
	ADD COLUMN IF NOT EXISTS namespace varchar NOT NULL DEFAULT '',
	ADD COLUMN IF NOT EXISTS emr_virtual_cluster varchar NOT NULL DEFAULT '',
	ADD COLUMN IF NOT EXISTS spark_server_uri varchar NOT NULL DEFAULT '';
