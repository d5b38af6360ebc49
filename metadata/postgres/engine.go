package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"varve.dev/metadata"
	"varve.dev/metadata/sqlmeta"
)

// engine is sqlmeta.Engine on PostgreSQL. Transactions run in READ COMMITTED under explicit row locks.
type engine struct {
	cfg     Config
	pool    *pgxpool.Pool
	cluster atomic.Pointer[string] // the cluster's id, once it was seen
}

var dialect = sqlmeta.Dialect{
	Param: func(n int) string { return fmt.Sprintf("$%d", n) },
	Rows: func(first int, names, types []string) string {
		arrays := make([]string, len(types))
		for i, t := range types {
			arrays[i] = fmt.Sprintf("$%d::%s[]", first+i, t)
		}
		return "unnest(" + strings.Join(arrays, ", ") + ") AS r(" + strings.Join(names, ", ") + ")"
	},
	Now:    func(int) string { return "CAST(extract(epoch FROM now()) * 1000 AS bigint)" },
	Share:  " FOR SHARE",
	Update: " FOR UPDATE",
}

// maxAttempts of a transaction that the server rolled back in favour of another.
const maxAttempts = 5

// mode is how statements become a transaction.
type mode struct {
	begin   string // empty: the one statement is the transaction
	commits bool
}

var (
	look     = mode{}
	snapshot = mode{begin: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"}
	single   = mode{commits: true}
	write    = mode{begin: "BEGIN ISOLATION LEVEL READ COMMITTED", commits: true}
)

func (e *engine) Look(ctx context.Context, fn func(sqlmeta.Tx) error) error {
	return e.run(ctx, look, fn)
}

func (e *engine) Read(ctx context.Context, fn func(sqlmeta.Tx) error) error {
	return e.run(ctx, snapshot, fn)
}

func (e *engine) One(ctx context.Context, fn func(sqlmeta.Tx) error) error {
	return e.retry(ctx, single, fn)
}

func (e *engine) Write(ctx context.Context, fn func(sqlmeta.Tx) error) error {
	return e.retry(ctx, write, fn)
}

// Identity names the database by one of its connections.
func (e *engine) Identity(ctx context.Context) (system string, timeline int64, err error) {
	err = e.Look(ctx, func(tx sqlmeta.Tx) error {
		return tx.Query(sqlmeta.Stmt{SQL: `SELECT (SELECT system_identifier::text FROM pg_control_system()),
			('x' || lpad(left(pg_walfile_name(pg_current_wal_lsn()), 8), 16, '0'))::bit(64)::bigint`},
			func(r sqlmeta.Row) error { return r.Scan(&system, &timeline) })
	})
	return system, timeline, err
}

func (e *engine) Close() error {
	e.pool.Close()
	return nil
}

func (e *engine) retry(ctx context.Context, m mode, fn func(sqlmeta.Tx) error) error {
	var err error
	for range maxAttempts {
		if err = e.run(ctx, m, fn); !errors.Is(err, errRolledBack) {
			return err
		}
	}
	return fmt.Errorf("%w: rolled back %d times: %w", metadata.ErrUnavailable, maxAttempts, err)
}

// run takes a connection and runs one transaction on it. A commit under a warning is a lost reply: the server says so when
// it gave up waiting for its standby.
func (e *engine) run(ctx context.Context, m mode, fn func(sqlmeta.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	pooled, err := e.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", metadata.ErrUnavailable, oneLine{err})
	}
	defer pooled.Release()
	t := &tx{conn: pooled.Conn(), ctx: ctx, trace: e.cfg.Trace, lost: reading}
	warned := &guardOf(t.conn).warning
	warned.Store(nil)
	switch {
	case m.begin != "":
		err = t.transaction(m.begin, fn)
	case m.commits:
		t.lost = writing
		err = fn(t)
	default:
		err = fn(t)
	}
	if n := warned.Load(); n != nil && err == nil && m.commits {
		return errors.Join(fmt.Errorf("%w: the server warned: %s", metadata.ErrUnknown, n.Message), t.conn.Close(ctx))
	}
	return err
}

// tx is one transaction.
type tx struct {
	conn  *pgx.Conn
	ctx   context.Context
	lost  kind // of a statement whose reply is lost
	trace func(sql string)
}

func (t *tx) transaction(begin string, fn func(sqlmeta.Tx) error) error {
	if _, err := t.command(begin); err != nil {
		return classify(t.ctx, reading, err)
	}
	if err := fn(t); err != nil {
		_, _ = t.command("ROLLBACK") // if it fails the connection is closed, which rolls back as well
		return err
	}
	tag, err := t.command("COMMIT")
	if err != nil {
		return classify(t.ctx, writing, err)
	}
	if tag.String() != "COMMIT" {
		return fmt.Errorf("%w: COMMIT was answered by %s", metadata.ErrUnavailable, tag)
	}
	return nil
}

// command runs a statement without parameters, in the extended protocol like all others.
func (t *tx) command(sql string) (pgconn.CommandTag, error) {
	if t.trace != nil {
		t.trace(sql)
	}
	res := t.conn.PgConn().ExecParams(t.ctx, sql, nil, nil, nil, nil).Read()
	return res.CommandTag, res.Err
}

func (t *tx) Lock(q sqlmeta.Stmt) error {
	_, err := t.Exec(q)
	return err
}

func (t *tx) Exec(q sqlmeta.Stmt) (int64, error) {
	return t.run(q, func(sqlmeta.Row) error { return nil })
}

func (t *tx) Query(q sqlmeta.Stmt, each func(sqlmeta.Row) error) error {
	_, err := t.run(q, each)
	return err
}

func (t *tx) run(q sqlmeta.Stmt, each func(sqlmeta.Row) error) (int64, error) {
	if q.Height() == 0 {
		return 0, nil
	}
	text, _ := dialect.Expand(q)
	if t.trace != nil {
		t.trace(text)
	}
	args := append(append(make([]any, 0, len(q.Args)+len(q.Rows)), q.Args...), q.Rows...)
	rows, err := t.conn.Query(t.ctx, text, args...)
	if err != nil {
		return 0, classify(t.ctx, t.lost, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return 0, err
		}
	}
	if err := rows.Err(); err != nil {
		return 0, classify(t.ctx, t.lost, err)
	}
	return rows.CommandTag().RowsAffected(), nil
}

// kind tells what a lost reply means.
type kind bool

const (
	reading kind = false // nothing is done by this statement alone: it reads, or its transaction is yet to be committed
	writing kind = true  // it commits
)

// errRolledBack is a rollback in favour of another transaction: nothing was done and the same may be tried again.
var errRolledBack = errors.New("rolled back")

// classify names what a failure means for what was asked.
func classify(ctx context.Context, k kind, err error) error {
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	var pg *pgconn.PgError
	answered := errors.As(err, &pg) && pg.SeverityUnlocalized == "ERROR" // such a statement is rolled back
	if !answered {
		if k == writing && !pgconn.SafeToRetry(err) {
			return fmt.Errorf("%w: %w", metadata.ErrUnknown, err)
		}
		return fmt.Errorf("%w: %w", metadata.ErrUnavailable, err)
	}
	switch pg.Code {
	case "40001", "40P01": // serialization failure, deadlock
		return fmt.Errorf("%w: %w", errRolledBack, err)
	case "23505": // unique violation
		return fmt.Errorf("%w: %w", sqlmeta.ErrUnique, err)
	case "23503": // foreign key violation
		return fmt.Errorf("%w: %w", metadata.ErrConflict, err)
	case "25006", "55P03", "57014": // read-only, lock timeout, cancelled by somebody else
		return fmt.Errorf("%w: %w", metadata.ErrUnavailable, err)
	}
	switch pg.Code[:2] {
	case "08", "53", "57", "58": // connection, resources, operator, system
		return fmt.Errorf("%w: %w", metadata.ErrUnavailable, err)
	}
	return err
}
