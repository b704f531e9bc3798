package state

import (
	"fmt"
	"strings"
)

// MalformedInput says that a request cannot be served as it was sent. The HTTP
// API returns 400 with its text, so the text is a sentence for the caller.
type MalformedInput struct{ Message string }

func (e MalformedInput) Error() string { return e.Message }

// Malformedf builds a MalformedInput.
func Malformedf(format string, args ...any) error {
	return MalformedInput{Message: fmt.Sprintf(format, args...)}
}

// MissingResource says that what was asked for does not exist (404).
type MissingResource struct{ Message string }

func (e MissingResource) Error() string { return e.Message }

// Missingf builds a MissingResource.
func Missingf(format string, args ...any) error {
	return MissingResource{Message: fmt.Sprintf(format, args...)}
}

// ConflictingResource says that the change contradicts what is stored (409).
type ConflictingResource struct{ Message string }

func (e ConflictingResource) Error() string { return e.Message }

// Conflictingf builds a ConflictingResource.
func Conflictingf(format string, args ...any) error {
	return ConflictingResource{Message: fmt.Sprintf(format, args...)}
}

// Unavailable says that the database cannot be reached now (503). Nothing was
// changed, as far as can be known.
type Unavailable struct{ Err error }

func (e Unavailable) Error() string { return "database unavailable: " + e.Err.Error() }

// Unwrap gives the driver's error.
func (e Unavailable) Unwrap() error { return e.Err }

// Shorten returns text, with its middle cut out if it is longer than most bytes: what is wrong with a text stands at
// its end, where at its beginning. Errors repeat no more of a client's text.
func Shorten(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most/2], "") + "…" + strings.ToValidUTF8(text[len(text)-most/2:], "")
}
