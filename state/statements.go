package state

import (
	"context"
	"sync"

	"github.com/jmoiron/sqlx"
)

// prepared keeps the statements of one pool that are run for every run, by
// their text; each connection learns them when it first runs them. Without it
// the server would plan them anew each time, which for a table with as many
// indexes as task's takes longer than to run them. The zero value is ready. The
// statements end with their pool.
type prepared[S interface{ Close() error }] struct {
	mu     sync.Mutex
	byText map[string]S
}

// get gives the statement for text, which it makes where it is not there yet.
func (p *prepared[S]) get(text string, make func() (S, error)) (S, error) {
	p.mu.Lock()
	stmt, known := p.byText[text]
	p.mu.Unlock()
	if known {
		return stmt, nil
	}
	// Outside the lock: it is a round trip, and the database may be away.
	stmt, err := make()
	if err != nil {
		return stmt, err
	}
	return p.keep(text, stmt)
}

// keep remembers the statement, but for one that another caller made meanwhile.
func (p *prepared[S]) keep(text string, stmt S) (S, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if earlier, known := p.byText[text]; known {
		return earlier, stmt.Close()
	}
	if p.byText == nil {
		p.byText = map[string]S{}
	}
	p.byText[text] = stmt
	return stmt, nil
}

// named gives a statement of the primary with :name arguments.
func (m *Manager) named(ctx context.Context, text string) (*sqlx.NamedStmt, error) {
	stmt, err := m.statements.get(text, func() (*sqlx.NamedStmt, error) {
		return m.db.PrepareNamedContext(ctx, text)
	})
	return stmt, interpretError(err)
}

// lookup asks the read-only database for one row.
func (m *Manager) lookup(ctx context.Context, dst any, text string, args ...any) error {
	stmt, err := m.lookups.get(text, func() (*sqlx.Stmt, error) { //nolint:sqlclosecheck // it is kept
		return m.readDB.PreparexContext(ctx, text)
	})
	if err != nil {
		return err
	}
	return stmt.GetContext(ctx, dst, args...)
}
