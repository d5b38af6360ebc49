package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"varve.dev/metadata"
)

// minVersion is the oldest server that the statements were run on.
const minVersion = 15_00_00

// identity is a database and its history. The timeline is the one that is written now; the control file's would lag behind
// a promotion until its first checkpoint.
type identity struct {
	system   string
	timeline int64
}

// server is what a new connection says of the other side.
type server struct {
	identity
	recovering, readOnly, hasCluster bool
	syncCommit, fsync, pageWrites    string
	version                          int
}

const askServer = `SELECT pg_is_in_recovery(),
	current_setting('transaction_read_only') = 'on',
	to_regclass('cluster') IS NOT NULL,
	set_config('synchronous_commit',
		CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false),
	current_setting('fsync'),
	current_setting('full_page_writes'),
	current_setting('server_version_num')::int,
	(SELECT system_identifier::text FROM pg_control_system()),
	CASE WHEN pg_is_in_recovery() THEN 0
		ELSE ('x' || lpad(left(pg_walfile_name(pg_current_wal_lsn()), 8), 16, '0'))::bit(64)::bigint END,
	set_config('default_transaction_isolation', 'read committed', false)`

// check runs on every new connection.
func (e *engine) check(ctx context.Context, c *pgx.Conn) error {
	var s server
	var isolation string
	if err := c.QueryRow(ctx, askServer, pgx.QueryExecModeExec).Scan(&s.recovering, &s.readOnly, &s.hasCluster,
		&s.syncCommit, &s.fsync, &s.pageWrites, &s.version, &s.system, &s.timeline, &isolation); err != nil {
		return fmt.Errorf("check the server: %w", err)
	}
	if err := s.settings(e.cfg); err != nil {
		return err
	}
	if s.hasCluster {
		if err := e.checkCluster(ctx, c, s.identity); err != nil {
			return err
		}
	} else if e.cluster.Load() != nil {
		return elsewhere("the cluster's tables are gone from it")
	}
	return nil
}

func (s server) settings(cfg Config) error {
	switch {
	case s.version < minVersion:
		return &metadata.SetupError{Problem: fmt.Sprintf("PostgreSQL has version %d", s.version),
			Hint: fmt.Sprintf("use %d or newer", minVersion)}
	case s.recovering, s.readOnly:
		return &metadata.SetupError{Problem: "the metadata database is a replica or read-only",
			Hint: "let metadata.url lead to the primary (target_session_attrs=read-write)"}
	case !slices.Contains([]string{"on", "remote_apply"}, s.syncCommit):
		return &metadata.SetupError{Problem: "synchronous_commit stays " + s.syncCommit, Hint: "let the user set it to on"}
	case (s.fsync != "on" || s.pageWrites != "on") && !cfg.AllowFsyncOff:
		return &metadata.SetupError{
			Problem: fmt.Sprintf("the metadata database has fsync=%s, full_page_writes=%s: it may lose what it acknowledged",
				s.fsync, s.pageWrites),
			Hint: "set both to on in postgresql.conf"}
	}
	return nil
}

// checkCluster demands the database that the cluster was created in, in an unbroken history.
func (e *engine) checkCluster(ctx context.Context, c *pgx.Conn, got identity) error {
	var id []byte
	var want identity
	err := c.QueryRow(ctx, `SELECT id, store_system, store_timeline FROM cluster`, pgx.QueryExecModeExec).
		Scan(&id, &want.system, &want.timeline)
	if errors.Is(err, pgx.ErrNoRows) {
		if e.cluster.Load() != nil {
			return elsewhere("the cluster's row is gone from it")
		}
		return nil
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42703" { // undefined column: a relation of that name that is not ours
		return &metadata.SetupError{Problem: "the metadata database holds another program's table named cluster",
			Hint: "give this cluster a database of its own", Err: err}
	}
	if err != nil {
		return fmt.Errorf("read the cluster's row: %w", err)
	}
	if got != want {
		return elsewhere(fmt.Sprintf("it is system %s timeline %d, and the cluster was created on system %s timeline %d",
			got.system, got.timeline, want.system, want.timeline))
	}
	seen := string(id)
	if !e.cluster.CompareAndSwap(nil, &seen) && *e.cluster.Load() != seen {
		return elsewhere("it holds another cluster")
	}
	return nil
}

func elsewhere(how string) error {
	return &metadata.SetupError{
		Problem: "this is not the metadata database that we knew: " + how,
		Hint: "it was restored, failed over or replaced, and commits that were acknowledged may be missing: lead metadata.url " +
			"back to the old one, or repair the cluster from its bucket before any agent writes",
	}
}
