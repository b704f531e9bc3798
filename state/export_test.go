package state

import (
	"database/sql"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/stitchfix/flotilla-os/state/database"
)

// NewWatchedManager returns a Manager whose sessions pass the server's notices to notice, in the goroutine that runs
// the query.
func NewWatchedManager(cfg ManagerConfig, notice func(*pq.Error)) (*Manager, error) {
	m, err := NewManager(cfg)
	if err != nil {
		return nil, err
	}
	c, err := database.NewConnector(cfg.URL)
	if err != nil {
		return nil, err
	}
	if err := m.Close(); err != nil {
		return nil, err
	}
	m.db = sqlx.NewDb(sql.OpenDB(pq.ConnectorWithNoticeHandler(c, notice)), "postgres")
	m.readDB, m.countDB = m.db, m.db
	return m, nil
}

// CountImpatiently replaces the pool for counting of m with one whose statements end after 1 ms.
func CountImpatiently(t testing.TB, m *Manager, url string) {
	t.Helper()
	impatient, err := database.Open(url, database.PoolConfig{MaxOpen: 1, StatementTimeout: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.countDB.Close(); err != nil {
		t.Fatal(err)
	}
	m.countDB = impatient
}

// InterpretError is interpretError.
var InterpretError = interpretError

// NewMockedManager returns a Manager of a pool for faults that a real database cannot be made to show.
func NewMockedManager(db *sql.DB) *Manager {
	return &Manager{db: sqlx.NewDb(db, "postgres"), oddLogged: map[string]bool{}}
}
