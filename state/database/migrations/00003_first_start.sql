-- Whether this program has served the database before, and since when: at the
-- first start it takes over the queue of the program before it.

-- +goose Up
CREATE TABLE IF NOT EXISTS flotilla_start (
	singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
	first_at timestamptz NOT NULL
);
