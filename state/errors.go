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

// MalformedInput reports that a request cannot be served as it was sent. The HTTP API returns 400 with its text, so the
// text is a sentence for the caller.
type MalformedInput struct{ Message string }

func (e MalformedInput) Error() string { return e.Message }

// Malformedf returns a MalformedInput.
func Malformedf(format string, args ...any) error {
	return MalformedInput{Message: fmt.Sprintf(format, args...)}
}

// MissingResource reports that the resource does not exist (404).
type MissingResource struct{ Message string }

func (e MissingResource) Error() string { return e.Message }

// Missingf returns a MissingResource.
func Missingf(format string, args ...any) error {
	return MissingResource{Message: fmt.Sprintf(format, args...)}
}

// ConflictingResource reports that the change contradicts what is stored (409).
type ConflictingResource struct{ Message string }

func (e ConflictingResource) Error() string { return e.Message }

// Conflictingf returns a ConflictingResource.
func Conflictingf(format string, args ...any) error {
	return ConflictingResource{Message: fmt.Sprintf(format, args...)}
}

// Unavailable reports that the database cannot be reached now (503). If a change was requested, it is not known whether
// the database made it.
type Unavailable struct{ Err error }

func (e Unavailable) Error() string { return "database unavailable: " + e.Err.Error() }

// Unwrap returns the driver's error.
func (e Unavailable) Unwrap() error { return e.Err }

// Shorten returns text, with its middle cut out if it is longer than most bytes. Errors about a client's text repeat no
// more of it: its beginning identifies the place, its end the fault.
func Shorten(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most/2], "") + "…" + strings.ToValidUTF8(text[len(text)-most/2:], "")
}

// interpretError returns the domain error of a driver's error. It is the only place that knows SQLSTATE codes of
// failures in general. It returns domain errors, sql.ErrNoRows and what it does not know as they are. An Unavailable
// wraps the driver's error.
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
	switch pgErr.Code {
	case pqerror.AdminShutdown, pqerror.CrashShutdown, pqerror.CannotConnectNow,
		pqerror.TooManyConnections,
		// A primary became a standby; a new connection finds the primary.
		pqerror.ReadOnlySQLTransaction,
		pqerror.QueryCanceled, pqerror.LockNotAvailable:
		return Unavailable{Err: err}
	case pqerror.UniqueViolation:
		return Conflictingf("there already is such a row in %s (%s)", pgErr.Table, pgErr.Constraint)
	case pqerror.ForeignKeyViolation:
		return Conflictingf("%s refers to a row that does not exist or is still in use (%s)", pgErr.Table, pgErr.Constraint)
	// These are values that the checks before the query let pass.
	case pqerror.NumericValueOutOfRange:
		return Malformedf("a number is too large to be stored")
	case pqerror.CharacterNotInRepertoire, pqerror.UntranslatableCharacter:
		return Malformedf("a text holds a character that cannot be stored, such as NUL")
	case pqerror.StringDataRightTruncation, pqerror.ProgramLimitExceeded:
		return Malformedf("a value is too long to be stored")
	}
	if pgErr.Code.Class() == pqerror.ClassConnectionException {
		return Unavailable{Err: err}
	}
	return err
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

// isUnreachable reports whether the way to the database failed, and not the query. An ended context counts, because the
// result of the query is not known.
func isUnreachable(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, sql.ErrTxDone) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
