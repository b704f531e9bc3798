package state

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// connectTimeout bounds one attempt to connect where the URL gives no bound.
// It leaves a request the time to answer that the database is away.
const connectTimeout = 5 * time.Second

// idleTime is how long an unused connection is kept.
const idleTime = 5 * time.Minute

// applicationName is what Flotilla's sessions are called in pg_stat_activity.
const applicationName = "flotilla-os"

// sessionSettings are set on every new connection. Times are read and written
// in UTC. The just-in-time compiler is off because it takes longer to compile
// the wide list queries than they take to run. They are not start parameters
// because a session pooler refuses those that it does not know.
const sessionSettings = `SET TIME ZONE 'UTC'; SET jit = off`

// openPool makes a pool for url. It does not connect.
func openPool(url string, cfg ManagerConfig) (*sqlx.DB, error) {
	settings, err := connectionConfig(url)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(poolConnector{settings})
	maxOpen, maxIdle := cfg.MaxOpen, cfg.MaxIdle
	if maxOpen == 0 {
		maxOpen = defaultMaxOpen
	}
	if maxIdle == 0 {
		maxIdle = defaultMaxIdle
	}
	db.SetMaxOpenConns(maxOpen)
	db.SetMaxIdleConns(min(maxIdle, maxOpen))
	db.SetConnMaxIdleTime(idleTime)
	return sqlx.NewDb(db, "postgres"), nil
}

// connector opens sessions that have sessionSettings.
type connector struct {
	*pq.Connector
	// established, where it is not nil, is called when the server has let the
	// session in.
	established func()
}

var _ driver.Connector = connector{}

func newConnector(url string) (connector, error) {
	cfg, err := connectionConfig(url)
	if err != nil {
		return connector{}, err
	}
	inner, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		return connector{}, err
	}
	return connector{Connector: inner}, nil
}

// connectionConfig is how all sessions are opened.
func connectionConfig(url string) (pq.Config, error) {
	if url == "" {
		return pq.Config{}, errors.New("empty, where a connection string is needed")
	}
	cfg, err := pq.NewConfig(url)
	if err != nil {
		// The driver's message may hold the password.
		return pq.Config{}, errors.New("not a connection string (postgres://user:password@host:5432/database)")
	}
	// One round trip for a query with arguments, where the driver otherwise
	// takes two: one to prepare it and one to run it.
	cfg.BinaryParameters = true
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	cfg.FallbackApplicationName = applicationName
	return cfg, nil
}

// Connect implements driver.Connector.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if c.established != nil {
		c.established()
	}
	session, ok := conn.(driver.ExecerContext)
	if !ok {
		return nil, errors.Join(errors.New("state: the driver cannot run statements"), conn.Close())
	}
	if _, err := session.ExecContext(ctx, sessionSettings, nil); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}
