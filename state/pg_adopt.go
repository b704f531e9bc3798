package state

import (
	"context"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// reasonNotAdopted ends runs that the program before us never submitted.
const reasonNotAdopted = "The run waited too long in the queue before this server took over; submit it again."

const (
	firstStartSQL = `INSERT INTO flotilla_start (first_at) VALUES (now()) ON CONFLICT DO NOTHING`

	stopStaleSQL = `UPDATE task SET
		status = 'STOPPED', exit_code = $1, exit_reason = $2, finished_at = now(), status_reason = NULL
	WHERE status = ANY($3) AND engine <> 'eks-spark' AND queued_at < now() - make_interval(secs => $4)`

	// The program before us made hashes from descriptions. What is over stays
	// as it is (docs/decisions); a run that we are to size must not inherit
	// what befell other commands, nor teach them. Spark runs are left alone: this
	// program does not execute them yet.
	rehashActiveSQL = `UPDATE task SET command_hash = md5(NULLIF(command, ''))
	WHERE status = ANY($1) AND engine = 'eks' AND command_hash IS DISTINCT FROM md5(NULLIF(command, ''))`
)

// activeStatuses are those of runs that are not over.
var activeStatuses = slices.DeleteFunc(slices.Clone(Statuses), Status.Final)

// AdoptQueued takes over the queue of the program before us, once in the life
// of a database: at our first start, QUEUED runs older than maxAge are
// stopped, because that program had lost them (data-model.md, "Taking over a
// live database"), and those that go on are identified by their commands. It
// counts the stopped ones; at every later start it does nothing.
func (m *Manager) AdoptQueued(ctx context.Context, maxAge time.Duration) (stopped int, err error) {
	err = m.transact(ctx, func(tx *sqlx.Tx) error {
		first, err := rowsHit(tx.ExecContext(ctx, firstStartSQL))
		if err != nil || first == 0 {
			return err
		}
		stopped, err = rowsHit(tx.ExecContext(ctx, stopStaleSQL, ExitCodeNeverStarted, reasonNotAdopted,
			pq.Array(guard(StatusStopped, StatusQueued)), maxAge.Seconds()))
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, rehashActiveSQL, pq.Array(activeStatuses))
		return err
	})
	return stopped, err
}
