package postgres

import (
	"context"
	"runtime"
	"time"

	"varve.dev/metadata/sqlmeta"
)

// LookCancelledLate is a read whose context ends when all of its reply has come and none of it was looked at but the row.
func (s *Store) LookCancelledLate(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return s.db.Look(ctx, func(t sqlmeta.Tx) error {
		return t.Query(sqlmeta.Stmt{SQL: "SELECT 1"}, func(sqlmeta.Row) error {
			cancel()
			for raw := t.(*tx).conn.PgConn().Conn(); raw.SetDeadline(time.Time{}) == nil; {
				runtime.Gosched() // until the guard has closed it
			}
			return nil
		})
	})
}
