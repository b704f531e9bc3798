-- What old databases have been seen to hold beside what is expected, for a database made by old_database.sql.
INSERT INTO task_def (definition_id, alias, image, group_name, container_name, adaptive_resource_allocation, requires_docker, env) VALUES
	('def-off', 'off', 'i', 'g', 'def-off', false, true, '{"A": "b"}');
INSERT INTO tags VALUES ('');
INSERT INTO task_def_tags VALUES ('', 'def-off');
INSERT INTO task (run_id, engine, status, command, command_hash, queued_at) VALUES
	('spark-active', 'eks-spark', 'RUNNING', 'x', NULL, now() - interval '1 hour'),
	('spark-queued', 'eks-spark', 'QUEUED', 'x', 'y', now() - interval '3 days'),
	('spark-over', 'eks-spark', 'STOPPED', 'x', NULL, now() - interval '1 hour'),
	('eks-wrong-hash', 'eks', 'PENDING', 'x', 'of a description', now());
INSERT INTO task (run_id, env, labels, pod_events, cloudtrail_notifications, spark_extension, execution_request_custom, spawned_runs, run_exceptions)
SELECT 'eks-odd-' || row_number() OVER (), odd, odd, odd, odd, odd, odd, odd, odd
FROM unnest(ARRAY['5', '"text"', 'true', '[5]', '{"a": [1]}', '[{"name": "A", "value": 5, "timestamp": ""}]']::jsonb[]) AS odd;
INSERT INTO task (run_id, env, labels, pod_events, cloudtrail_notifications) VALUES ('eks-fine', '[{"name": "A"}, {"name": "B", "value": null}]',
	'{"a": "b"}', '[{"timestamp": "2026-11-20T10:00:00Z", "event_type": "Normal"}, {"timestamp": null}]', '{"Records": null}');
UPDATE cluster_state SET status_since = now() - interval '1 year', updated_at = now() - interval '1 year';
INSERT INTO cluster_state (name, region, status, updated_at) VALUES ('moon', 'r', 'offline', now() - interval '1 year'), ('new', 'r', 'active', now());
