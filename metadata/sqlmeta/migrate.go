package sqlmeta

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"varve.dev/metadata"
)

// Migration is one step of the schema.
type Migration struct {
	Version  int32
	Name     string
	Text     string
	Checksum string
}

// Migrations reads the .sql files of a folder. Their names begin with their version, from 1 on, without a gap.
func Migrations(folder fs.FS) ([]Migration, error) {
	names, err := fs.Glob(folder, "*.sql")
	if err != nil {
		return nil, err
	}
	var out []Migration
	for i, name := range names { // Glob sorts
		digits, _, _ := strings.Cut(name, "_")
		version, err := strconv.Atoi(digits)
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %s: its name begins with %q, want version %d", name, digits, i+1)
		}
		text, err := fs.ReadFile(folder, name)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(text)
		out = append(out, Migration{int32(version), name, string(text), hex.EncodeToString(sum[:])})
	}
	return out, nil
}

// Migrate brings the schema up to date, a transaction for each step. lock is run first in each transaction, so that one
// agent migrates while the others wait.
func Migrate(ctx context.Context, db Engine, steps []Migration, lock func(Tx) error) error {
	for {
		done := false
		err := db.Write(ctx, func(tx Tx) error {
			if err := lock(tx); err != nil {
				return err
			}
			next, err := pending(tx, steps)
			if err != nil || next == nil {
				done = true
				return err
			}
			return apply(tx, *next)
		})
		if err != nil || done {
			return err
		}
	}
}

// pending answers the first step that is not applied.
func pending(tx Tx, steps []Migration) (*Migration, error) {
	if _, err := tx.Exec(Stmt{SQL: `CREATE TABLE IF NOT EXISTS schema_versions (
		version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL)`}); err != nil {
		return nil, err
	}
	return firstMissing(tx, steps)
}

// CheckSchema demands a schema that is up to date, without writing to it.
func CheckSchema(ctx context.Context, db Engine, steps []Migration) error {
	return db.Read(ctx, func(tx Tx) error {
		next, err := firstMissing(tx, steps)
		if err == nil && next != nil {
			err = &metadata.SetupError{
				Problem: fmt.Sprintf("the metadata schema lacks migration %s", next.Name),
				Hint:    "start an agent of this version once: it brings the schema up to date",
			}
		}
		return err
	})
}

func firstMissing(tx Tx, steps []Migration) (*Migration, error) {
	applied, err := list(tx, Stmt{SQL: `SELECT version, name, checksum FROM schema_versions ORDER BY version`},
		func(r Row) (m Migration, err error) { return m, r.Scan(&m.Version, &m.Name, &m.Checksum) })
	if err != nil {
		return nil, err
	}
	if len(applied) > len(steps) {
		return nil, &metadata.SetupError{
			Problem: fmt.Sprintf("the metadata schema has version %d and this program knows %d", len(applied), len(steps)),
			Hint:    "start the newer program that wrote it; a program never writes to a schema it does not know",
		}
	}
	for i, m := range applied {
		if m.Version != steps[i].Version || m.Checksum != steps[i].Checksum {
			return nil, &metadata.SetupError{
				Problem: fmt.Sprintf("migration %s was applied here with other content (checksum %s, want %s)",
					m.Name, m.Checksum, steps[i].Checksum),
				Hint: "this program was not built from the release that made the schema: start that release, or restore",
			}
		}
	}
	if len(applied) == len(steps) {
		return nil, nil
	}
	return &steps[len(applied)], nil
}

func apply(tx Tx, m Migration) error {
	for stmt := range strings.SplitSeq(m.Text, ";\n") {
		if strings.TrimSpace(stmt) == "" {
			continue
		}
		if _, err := tx.Exec(Stmt{SQL: stmt}); err != nil {
			return fmt.Errorf("migration %s: %w", m.Name, err)
		}
	}
	_, err := tx.Exec(Stmt{
		SQL:  `INSERT INTO schema_versions (version, name, checksum) VALUES ($1, $2, $3)`,
		Args: []any{m.Version, m.Name, m.Checksum},
	})
	return err
}
