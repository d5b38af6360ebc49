// Package sqlite is the metadata store of a single agent: one file, one process.
//
// A write is one BEGIN IMMEDIATE … COMMIT on the one writing connection, synced before it is answered; readers have
// snapshots of their own and never wait for it. The clock is the process's. Nothing is interrupted half way: a context
// that ends is noticed while waiting for a connection, never inside a transaction.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	driver "modernc.org/sqlite"

	"varve.dev/metadata"
	"varve.dev/metadata/sqlmeta"
)

//go:embed migrations/*.sql
var files embed.FS

// Config of a store. The zero value is good.
type Config struct {
	// Readers is how many connections read beside the one that writes. Default 4: reads are short, and more of them than
	// processors only wait for each other.
	Readers int
	// Trace, if set, is called with each statement before it runs.
	Trace func(sql string)
}

const defaultReaders = 4

// Store is every role of metadata.
type Store struct{ *sqlmeta.Store }

var _ metadata.Store = (*Store)(nil)

// Open opens or creates the database at path and brings its schema up to date. Its errors that a person must act on are
// metadata.SetupError.
func Open(ctx context.Context, path string, cfg Config) (*Store, error) {
	if cfg.Readers == 0 {
		cfg.Readers = defaultReaders
	}
	lock, err := hold(path + ".lock")
	if err != nil {
		return nil, err
	}
	db, err := open(ctx, path, cfg, false)
	if err != nil {
		return nil, errors.Join(setupError(path, err), lock.Close())
	}
	db.lock = lock
	steps, err := migrations()
	if err == nil {
		err = sqlmeta.Migrate(ctx, db, steps, func(sqlmeta.Tx) error { return nil })
	}
	if err != nil {
		return nil, errors.Join(setupError(path, err), db.Close())
	}
	return &Store{sqlmeta.New(db)}, nil
}

// OpenReader opens an existing database beside the process that holds it, to look at: what writes fails. The schema is
// not brought up to date, but must be.
func OpenReader(ctx context.Context, path string) (*Store, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, setupError(path, err)
	}
	db, err := open(ctx, path, Config{Readers: 1}, true)
	if err != nil {
		return nil, setupError(path, err)
	}
	steps, err := migrations()
	if err == nil {
		err = sqlmeta.CheckSchema(ctx, db, steps)
	}
	if err != nil {
		return nil, errors.Join(setupError(path, err), db.Close())
	}
	return &Store{sqlmeta.New(db)}, nil
}

func migrations() ([]sqlmeta.Migration, error) {
	folder, err := fs.Sub(files, "migrations")
	if err != nil {
		return nil, err
	}
	return sqlmeta.Migrations(folder)
}

func setupError(path string, err error) error {
	var setup *metadata.SetupError
	if errors.As(err, &setup) {
		return err
	}
	return &metadata.SetupError{
		Problem: "cannot open the metadata file " + path,
		Hint:    "its folder must exist and be writable, on a local disk, and the file must be ours",
		Err:     err,
	}
}

// hold locks the file for the life of the process, so that a second one on the same database is refused.
func hold(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, setupError(path, err)
	}
	if err := tryLock(f); err != nil {
		f.Close()
		return nil, &metadata.SetupError{
			Problem: "the metadata file " + filepath.Base(path[:len(path)-len(".lock")]) + " is held by another process",
			Hint:    "stop the other agent on " + filepath.Dir(path) + ", or give this one a folder of its own",
			Err:     err,
		}
	}
	return f, nil
}

// settings are checked on every connection after they were asked for: a file system without shared memory, for one, makes
// SQLite fall back to another journal without an error.
var settings = [...]struct{ pragma, want string }{
	{"journal_mode", "wal"},
	{"synchronous", "2"}, // FULL
	{"foreign_keys", "1"},
}

func open(ctx context.Context, path string, cfg Config, readOnly bool) (*engine, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	query := url.Values{"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "fullfsync(1)",
		"checkpoint_fullfsync(1)", "foreign_keys(1)"}}
	connector, err := driver.NewConnector((&url.URL{Scheme: "file", Path: filepath.ToSlash(abs), RawQuery: query.Encode()}).String())
	if err != nil {
		return nil, err
	}
	e := &engine{db: sql.OpenDB(connector), trace: cfg.Trace, writer: make(chan *conn, 1), readers: make(chan *conn, cfg.Readers)}
	e.db.SetMaxOpenConns(1 + cfg.Readers)
	e.db.SetMaxIdleConns(1 + cfg.Readers)
	for i := range 1 + cfg.Readers {
		c, err := e.connect(ctx, readOnly || i > 0)
		if err != nil {
			return nil, errors.Join(err, e.Close())
		}
		e.conns = append(e.conns, c)
		if i == 0 {
			e.writer <- c
		} else {
			e.readers <- c
		}
	}
	return e, nil
}

func (e *engine) connect(ctx context.Context, readOnly bool) (*conn, error) {
	sc, err := e.db.Conn(context.WithoutCancel(ctx))
	if err != nil {
		return nil, err
	}
	c := &conn{sc: sc, prepared: map[string]*sql.Stmt{}}
	for _, s := range settings {
		var got string
		if err := sc.QueryRowContext(context.WithoutCancel(ctx), "PRAGMA "+s.pragma).Scan(&got); err != nil {
			return nil, errors.Join(err, sc.Close())
		}
		if got != s.want {
			return nil, errors.Join(fmt.Errorf("%s is %s, want %s", s.pragma, got, s.want), sc.Close())
		}
	}
	if readOnly {
		if _, err := sc.ExecContext(context.WithoutCancel(ctx), "PRAGMA query_only=1"); err != nil {
			return nil, errors.Join(err, sc.Close())
		}
	}
	return c, nil
}
