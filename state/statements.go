package state

import (
	"context"
	"sync"

	"github.com/jmoiron/sqlx"
)

// statements keeps the statements that are run for every run prepared, by
// their text; each connection learns them when it first runs them. The zero
// value is ready. They end with their pool.
type statements struct {
	mu     sync.Mutex
	byText map[string]*sqlx.NamedStmt
}

// named gives text, with :name arguments, prepared on db. One text belongs to
// one db.
func (s *statements) named(ctx context.Context, db *sqlx.DB, text string) (*sqlx.NamedStmt, error) {
	s.mu.Lock()
	stmt := s.byText[text]
	s.mu.Unlock()
	if stmt != nil {
		return stmt, nil
	}
	// Prepared outside the lock: it is a round trip, and the database may be
	// away.
	stmt, err := db.PrepareNamedContext(ctx, text)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if earlier := s.byText[text]; earlier != nil {
		return earlier, stmt.Close()
	}
	if s.byText == nil {
		s.byText = map[string]*sqlx.NamedStmt{}
	}
	s.byText[text] = stmt
	return stmt, nil
}
