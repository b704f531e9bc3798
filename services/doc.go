// Package services holds what the product does: it checks what is asked for,
// decides what a run is made of (command, identity, place, lifecycle), and
// answers questions about runs, logs, definitions, templates, clusters and
// workers.
//
// It knows neither HTTP (package flotilla) nor SQL (package state), and it
// executes nothing (package execution): a run that it has stored is picked up
// by the submit worker.
package services
