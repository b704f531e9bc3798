// Package flotilla is the HTTP API: routes, reading of requests, writing of
// answers, and who may ask. What a request does is in package services; which
// words the API speaks is in openapi.yaml, and the tests hold every answer
// against it.
package flotilla
