package state

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/lib/pq"
)

// guard lists the statuses that an UPDATE to the status `to` may leave, for
// its WHERE. Where only is not empty, those of them.
func guard(to Status, only ...Status) pq.StringArray {
	words := pq.StringArray{}
	for _, from := range sourcesOf(to) {
		if len(only) == 0 || slices.Contains(only, from) {
			words = append(words, string(from))
		}
	}
	return words
}

// hitsOne runs a guarded UPDATE and reports whether its guard let it through.
func (m *Manager) hitsOne(ctx context.Context, text string, arg any) (bool, error) {
	n, err := m.update(ctx, text, arg)
	return n == 1, err
}

// update runs text with the named arguments of arg and counts the rows hit.
func (m *Manager) update(ctx context.Context, text string, arg any) (int, error) {
	stmt, err := m.named(ctx, text) //nolint:sqlclosecheck // it is kept
	if err != nil {
		return 0, err
	}
	n, err := rowsHit(stmt.ExecContext(ctx, arg))
	return n, interpretError(err)
}

// moved runs a guarded UPDATE that answers the row. Where the guard did not
// let it through, the row is read as it stands, and moved is false;
// MissingResource where there is none.
func (m *Manager) moved(ctx context.Context, text, runID string, arg any) (r Run, moved bool, err error) {
	stmt, err := m.named(ctx, text) //nolint:sqlclosecheck // it is kept
	if err != nil {
		return Run{}, false, err
	}
	r, err = m.readRun(ctx, func(row any) error { return stmt.GetContext(ctx, row, arg) })
	if !errors.Is(err, sql.ErrNoRows) {
		return r, err == nil, err
	}
	r, err = m.GetRun(ctx, runID)
	return r, false, err
}

// changed runs an UPDATE that answers the rows it hit.
func (m *Manager) changed(ctx context.Context, text string, arg any) ([]Run, error) {
	stmt, err := m.named(ctx, text) //nolint:sqlclosecheck // it is kept
	if err != nil {
		return nil, err
	}
	return m.readRuns(ctx, func(rows any) error { return stmt.SelectContext(ctx, rows, arg) })
}

// exec runs a statement that is not worth keeping prepared and counts the rows
// hit.
func (m *Manager) exec(ctx context.Context, text string, args ...any) (int, error) {
	n, err := rowsHit(m.db.ExecContext(ctx, text, args...))
	return n, interpretError(err)
}

// rowsHit counts the rows that a statement changed.
func rowsHit(result sql.Result, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}
