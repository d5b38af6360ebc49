package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	driver "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"varve.dev/metadata"
	"varve.dev/metadata/sqlmeta"
)

// engine is sqlmeta.Engine on SQLite. Connections are handed around by channels, not held under a mutex, so that a wait
// for one stands still in virtual time.
type engine struct {
	db      *sql.DB
	trace   func(sql string)
	lock    *os.File
	conns   []*conn
	writer  chan *conn
	readers chan *conn
	closing sync.Once
}

// conn is one connection and its prepared statements: as many as there are statements in the program.
type conn struct {
	sc       *sql.Conn
	prepared map[string]*sql.Stmt
}

var dialect = sqlmeta.Dialect{
	Param: param,
	Rows: func(first int, names, _ []string) string {
		var b strings.Builder
		b.WriteString("(SELECT ")
		for i, name := range names {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(param(first+i) + " AS " + name)
		}
		b.WriteString(") AS r")
		return b.String()
	},
	Now: param,
}

func param(n int) string { return fmt.Sprintf("?%d", n) }

func (e *engine) Look(ctx context.Context, fn func(sqlmeta.Tx) error) error { return e.Read(ctx, fn) }
func (e *engine) Read(ctx context.Context, fn func(sqlmeta.Tx) error) error {
	return e.run(ctx, e.readers, "BEGIN", fn)
}
func (e *engine) One(ctx context.Context, fn func(sqlmeta.Tx) error) error { return e.Write(ctx, fn) }
func (e *engine) Write(ctx context.Context, fn func(sqlmeta.Tx) error) error {
	return e.run(ctx, e.writer, "BEGIN IMMEDIATE", fn)
}

// Identity says nothing: a file that was copied back cannot be told from the one that was left.
func (e *engine) Identity(context.Context) (string, int64, error) { return "", 0, nil }

// errClosed is what a call finds after Close.
var errClosed = fmt.Errorf("the store is closed: %w", metadata.ErrUnavailable)

// run takes a connection and runs one transaction on it, to its end whatever becomes of ctx.
func (e *engine) run(ctx context.Context, from chan *conn, begin string, fn func(sqlmeta.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", metadata.ErrUnavailable, err)
	}
	var c *conn
	select {
	case got, ok := <-from:
		if !ok {
			return errClosed
		}
		c = got
	case <-ctx.Done():
		return fmt.Errorf("waiting for a connection: %w: %w", metadata.ErrUnavailable, ctx.Err())
	}
	defer func() { from <- c }()
	t := &tx{c: c, ctx: context.WithoutCancel(ctx), trace: e.trace, now: time.Now().UnixMilli()}
	if err := t.command(begin); err != nil {
		return unavailable(err)
	}
	if err := fn(t); err != nil {
		return errors.Join(err, t.rollback())
	}
	if err := t.command("COMMIT"); err != nil {
		// The log may hold the commit and a crash may bring it back, until the next commit writes over it.
		return errors.Join(fmt.Errorf("commit: %w: %w", metadata.ErrUnknown, err), t.rollback())
	}
	return nil
}

// Close waits for the transactions that run. Later calls find the store closed.
func (e *engine) Close() error {
	var errs []error
	e.closing.Do(func() {
		for range e.conns {
			var c *conn
			select {
			case c = <-e.writer:
			case c = <-e.readers:
			}
			errs = append(errs, c.close())
		}
		close(e.writer)
		close(e.readers)
		errs = append(errs, e.db.Close())
		if e.lock != nil {
			errs = append(errs, e.lock.Close())
		}
	})
	return errors.Join(errs...)
}

func (c *conn) close() error {
	var errs []error
	for _, s := range c.prepared {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, c.sc.Close())...)
}

// tx is one transaction.
type tx struct {
	c     *conn
	ctx   context.Context
	trace func(sql string)
	now   int64 // milliseconds: one moment for all rows, as in PostgreSQL
}

func (t *tx) command(sql string) error {
	if t.trace != nil {
		t.trace(sql)
	}
	stmt, err := t.prepare(sql)
	if err != nil {
		return err
	}
	_, err = stmt.ExecContext(t.ctx)
	return err
}

// rollback also succeeds when the failure has rolled back by itself.
func (t *tx) rollback() error {
	if t.trace != nil {
		t.trace("ROLLBACK")
	}
	_, err := t.c.sc.ExecContext(t.ctx, "ROLLBACK")
	if err != nil && strings.Contains(err.Error(), "no transaction is active") {
		return nil
	}
	return err
}

func (t *tx) prepare(sql string) (*sql.Stmt, error) {
	if s := t.c.prepared[sql]; s != nil {
		return s, nil
	}
	s, err := t.c.sc.PrepareContext(t.ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("prepare %s: %w", sql, err)
	}
	t.c.prepared[sql] = s
	return s, nil
}

// Lock does nothing: this transaction is the only one that writes.
func (t *tx) Lock(sqlmeta.Stmt) error { return nil }

func (t *tx) Exec(q sqlmeta.Stmt) (affected int64, err error) {
	err = t.each(q, func(s *sql.Stmt, args []any) error {
		res, err := s.ExecContext(t.ctx, args...)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		affected += n
		return err
	})
	return affected, err
}

func (t *tx) Query(q sqlmeta.Stmt, each func(sqlmeta.Row) error) error {
	return t.each(q, func(s *sql.Stmt, args []any) error {
		rows, err := s.QueryContext(t.ctx, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := each(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	})
}

// each runs a statement once, or once for each of its rows.
func (t *tx) each(q sqlmeta.Stmt, run func(*sql.Stmt, []any) error) error {
	height := q.Height()
	if height == 0 {
		return nil
	}
	text, now := dialect.Expand(q)
	s, err := t.prepare(text)
	if err != nil {
		return unavailable(err)
	}
	args := append(make([]any, 0, len(q.Args)+len(q.Rows)+1), q.Args...)
	for i := range max(height, 1) {
		args = args[:len(q.Args)]
		for _, col := range q.Rows {
			args = append(args, sqlmeta.Cell(col, i))
		}
		if now {
			args = append(args, t.now)
		}
		if t.trace != nil {
			t.trace(text)
		}
		if err := run(s, args); err != nil {
			return unavailable(err)
		}
	}
	return nil
}

// unavailable names what kind of failure it is: nothing of the transaction remains, since it has not been committed.
func unavailable(err error) error {
	var e *driver.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() {
	case lib.SQLITE_CONSTRAINT_UNIQUE, lib.SQLITE_CONSTRAINT_PRIMARYKEY:
		return fmt.Errorf("%w: %w", sqlmeta.ErrUnique, err)
	case lib.SQLITE_CONSTRAINT_FOREIGNKEY:
		return fmt.Errorf("%w: %w", metadata.ErrConflict, err)
	}
	switch e.Code() & 0xff {
	case lib.SQLITE_BUSY, lib.SQLITE_FULL, lib.SQLITE_IOERR, lib.SQLITE_CANTOPEN, lib.SQLITE_NOMEM, lib.SQLITE_READONLY:
		return fmt.Errorf("%w: %w", metadata.ErrUnavailable, err)
	}
	return err
}
