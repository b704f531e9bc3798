// Package database connects to Postgres and keeps its tables as the program
// needs them: pools, the sessions that hold locks, notifications between
// servers, migrations and index builds. It knows no domain type; package state
// does.
package database
