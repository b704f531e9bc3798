package state

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
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

// interpretError makes a domain error of a driver's: the only place that
// knows SQLSTATE codes of failures in general. Domain errors, sql.ErrNoRows
// and what it does not know come back as they are; the driver's error stays
// reachable by errors.As in every Unavailable.
func interpretError(err error) error {
	if err == nil || isDomainError(err) {
		return err
	}
	if isUnreachable(err) {
		return Unavailable{Err: err}
	}
	var pgErr *pq.Error
	if !errors.As(err, &pgErr) {
		return err
	}
	return interpretCode(pgErr)
}

func isDomainError(err error) bool {
	var (
		malformed   MalformedInput
		missing     MissingResource
		conflicting ConflictingResource
		unavailable Unavailable
	)
	return errors.As(err, &malformed) || errors.As(err, &missing) ||
		errors.As(err, &conflicting) || errors.As(err, &unavailable)
}

// isUnreachable tells failures of the way to the database from failures of
// the query. An ended context is one of them: what the query would have said
// is not known.
func isUnreachable(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, sql.ErrTxDone) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// interpretCode maps SQLSTATE codes.
func interpretCode(err *pq.Error) error {
	switch err.Code {
	case pqerror.AdminShutdown, pqerror.CrashShutdown, pqerror.CannotConnectNow,
		pqerror.TooManyConnections,
		// A primary that became a standby: a new connection finds the primary.
		pqerror.ReadOnlySQLTransaction,
		pqerror.QueryCanceled, pqerror.LockNotAvailable:
		return Unavailable{Err: err}
	case pqerror.UniqueViolation:
		return Conflictingf("there already is such a row in %s (%s)", err.Table, err.Constraint)
	case pqerror.ForeignKeyViolation:
		return Conflictingf("%s refers to a row that does not exist or is still in use (%s)", err.Table, err.Constraint)
	// What follows are values that the checks before the query let pass.
	case pqerror.NumericValueOutOfRange:
		return Malformedf("a number is too large to be stored")
	case pqerror.CharacterNotInRepertoire, pqerror.UntranslatableCharacter:
		return Malformedf("a text holds a character that cannot be stored, such as NUL")
	case pqerror.StringDataRightTruncation, pqerror.ProgramLimitExceeded:
		return Malformedf("a value is too long to be stored")
	}
	if err.Code.Class() == pqerror.ClassConnectionException {
		return Unavailable{Err: err}
	}
	return err
}
