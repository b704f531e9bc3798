// Package postgres runs a private PostgreSQL server for installations that have no database of their own: dev mode,
// and (through its sub-package pgtest) the tests.
//
// It finds the server binaries, makes a cluster in Flotilla's data folder, starts it on a loopback port, notices when
// it dies and stops it. What is inside the database is not its business: see package state.
package postgres
