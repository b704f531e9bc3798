package state

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

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
