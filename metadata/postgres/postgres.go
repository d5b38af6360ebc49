// Package postgres is the metadata store of a cluster: a durable PostgreSQL primary, reached without a pooler.
//
// Every new connection proves that it leads to the database that the cluster was created in, with settings under which an
// answered commit stays. A reply that is late or lost is never asked after and never cancelled: the connection is closed,
// and the outcome of a write is then metadata.ErrUnknown.
package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"varve.dev/metadata"
	"varve.dev/metadata/sqlmeta"
)

//go:embed migrations/*.sql
var files embed.FS

// Config of a store. The zero value is good.
type Config struct {
	// MaxConns bounds the connections of this agent. Default 8: one commits, the others read and seal.
	MaxConns int32
	// Timeout of one call, from taking a connection to the last reply. Default 10 s: longer than any statement of ours on
	// 10,000 partitions, shorter than a producer's patience.
	Timeout time.Duration
	// AllowFsyncOff accepts a server that may lose what it acknowledged. Tests only.
	AllowFsyncOff bool
	// Trace, if set, is called with each statement before it is sent.
	Trace func(sql string)
}

const (
	defaultMaxConns = 8
	defaultTimeout  = 10 * time.Second
	// idleInTransaction bounds how long locks of an agent that vanished in a transaction stay.
	idleInTransaction = "60000" // milliseconds
	// migrationLock is an advisory lock of the transaction that migrates: "varve".
	migrationLock int64 = 0x7661727665
)

// Store is every role of metadata.
type Store struct {
	*sqlmeta.Store
	db *engine
}

var _ metadata.Store = (*Store)(nil)

// Open connects to the database at url (any form that libpq takes) and brings its schema up to date. Its errors that a
// person must act on are metadata.SetupError.
func Open(ctx context.Context, url string, cfg Config) (*Store, error) {
	if cfg.MaxConns == 0 {
		cfg.MaxConns = defaultMaxConns
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	db, err := open(ctx, url, cfg)
	if err != nil {
		return nil, err
	}
	steps, err := migrations()
	if err == nil {
		err = sqlmeta.Migrate(ctx, db, steps, func(tx sqlmeta.Tx) error {
			_, err := tx.Exec(sqlmeta.Stmt{SQL: `SELECT pg_advisory_xact_lock($1)`, Args: []any{migrationLock}})
			return err
		})
	}
	if err != nil {
		return nil, errors.Join(setupError(err), db.Close())
	}
	return &Store{sqlmeta.New(db), db}, nil
}

func migrations() ([]sqlmeta.Migration, error) {
	folder, err := fs.Sub(files, "migrations")
	if err != nil {
		return nil, err
	}
	return sqlmeta.Migrations(folder)
}

func open(ctx context.Context, url string, cfg Config) (*engine, error) {
	pc, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, &metadata.SetupError{Problem: "the metadata URL cannot be read",
			Hint: "give postgres://user@host:port/database", Err: err}
	}
	e := &engine{cfg: cfg}
	pc.MaxConns = cfg.MaxConns
	pc.ConnConfig.RuntimeParams["application_name"] = "varve"
	pc.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = idleInTransaction
	pc.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	pc.BeforeConnect = func(_ context.Context, cc *pgx.ConnConfig) error {
		guardConnection(cc)
		return nil
	}
	pc.AfterConnect = e.check
	pc.PrepareConn = usable
	if e.pool, err = pgxpool.NewWithConfig(ctx, pc); err != nil {
		return nil, setupError(err)
	}
	return e, nil
}

// setupError says what is wrong with a database that could not be opened.
func setupError(err error) error {
	var setup *metadata.SetupError
	if errors.As(err, &setup) {
		return setup
	}
	out := &metadata.SetupError{Problem: "the metadata database cannot be reached",
		Hint: "start PostgreSQL, or correct host and port in metadata.url", Err: oneLine{err}}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch {
		case pg.Code[:2] == "28":
			out.Problem, out.Hint = "the metadata database refuses the credentials", "correct user and password in metadata.url"
		case pg.Code == "3D000":
			out.Problem, out.Hint = "the metadata database does not exist", "create it, or correct its name in metadata.url"
		case pg.Code == "42501":
			out.Problem, out.Hint = "the metadata user lacks a right", "let it create tables in its schema"
		default:
			out.Problem, out.Hint = "the metadata database refuses to serve", "its own message says why"
		}
	}
	return out
}

// oneLine is an error whose text is one line: that of a connection tells of each address in a line of its own.
type oneLine struct{ error }

func (e oneLine) Error() string {
	lines := strings.Split(e.error.Error(), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	return strings.ReplaceAll(strings.Join(lines, "; "), ":; ", ": ")
}

func (e oneLine) Unwrap() error { return e.error }

// CreateDatabase creates an empty database on the server that url leads to.
func CreateDatabase(ctx context.Context, url, name string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return setupError(err)
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()+" TEMPLATE template0")
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}
