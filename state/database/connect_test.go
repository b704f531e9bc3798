package database_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/stitchfix/flotilla-os/clients/postgres/pgtest"
	"github.com/stitchfix/flotilla-os/state/database"
	"github.com/stitchfix/flotilla-os/state/statetest"
)

func TestAQueryEndsSoonAfterItsContextIfTheDatabaseIsSilent(t *testing.T) {
	t.Parallel()
	direct, err := url.Parse(statetest.NewURL(t))
	require.NoError(t, err)
	proxy := newStallingProxy(t, direct.Host)
	through := *direct
	through.Host = proxy.listener.Addr().String()
	db, err := database.Open(through.String(), database.PoolConfig{})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	const query = `SELECT count(*) FROM cluster_state`
	_, err = db.ExecContext(t.Context(), query)
	require.NoError(t, err)

	proxy.stalled.Store(true)
	for _, name := range []string{"an open session", "a new session"} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		begin := time.Now()
		_, err = db.ExecContext(ctx, query)
		took := time.Since(begin)
		cancel()
		require.Error(t, err, name)
		assert.Less(t, took, 4*time.Second, name)
	}

	proxy.stalled.Store(false)
	require.Eventually(t, func() bool {
		_, err := db.ExecContext(t.Context(), query)
		return err == nil
	}, 20*time.Second, 50*time.Millisecond)
}

// lib/pq honours a fallback name only if it is in the connection string.
func TestEverySessionHasAName(t *testing.T) {
	t.Parallel()
	for what, open := range map[string]func(t *testing.T, watcher *sqlx.DB, address string){
		"a pool": func(t *testing.T, _ *sqlx.DB, address string) {
			db, err := database.Open(address, database.PoolConfig{})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, db.Close()) })
			require.NoError(t, db.PingContext(t.Context()))
		},
		"locks": func(t *testing.T, _ *sqlx.DB, address string) {
			led := make(chan struct{}, 1)
			lead(t, newLocker(t, address), "name", func(ctx context.Context) error {
				led <- struct{}{}
				<-ctx.Done()
				return nil
			})
			receive(t, led, "the lead")
		},
		"a notifier": func(t *testing.T, _ *sqlx.DB, address string) {
			from, to := runNotifier(t, address), runNotifier(t, address)
			heard, cancel := to.Subscribe()
			defer cancel()
			wakesOther(t, from, heard)
		},
		"migrations": func(t *testing.T, watcher *sqlx.DB, address string) {
			waitAtLock(t, watcher, address, database.MigrationLock, database.Migrate)
		},
		"index builds": func(t *testing.T, watcher *sqlx.DB, address string) {
			waitAtLock(t, watcher, address, database.IndexLock, database.BuildIndexes)
		},
	} {
		for parameters, want := range map[string]string{"": "flotilla-os", "application_name=flotilla-east": "flotilla-east"} {
			t.Run(what+" is called "+want, func(t *testing.T) {
				t.Parallel()
				// There are no tables, so that there is something to migrate.
				address := pgtest.New(t).URL
				watcher, err := database.Open(address, database.PoolConfig{})
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, watcher.Close()) })
				u, err := url.Parse(address)
				require.NoError(t, err)
				if u.RawQuery != "" && parameters != "" {
					u.RawQuery += "&"
				}
				u.RawQuery += parameters
				open(t, watcher, u.String())
				var names []string
				require.NoError(t, watcher.SelectContext(t.Context(), &names, `SELECT DISTINCT application_name FROM pg_stat_activity
					WHERE datname = current_database() AND backend_type = 'client backend'
					AND pid NOT IN (SELECT pid FROM pg_locks WHERE granted AND locktype = 'advisory' AND objid IN ($1, $2))
					AND pid <> pg_backend_pid()`, database.MigrationLock&0xffffffff, database.IndexLock&0xffffffff))
				assert.Equal(t, []string{want}, names)
			})
		}
	}
}
