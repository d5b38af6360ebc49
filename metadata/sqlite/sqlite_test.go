package sqlite

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"varve.dev/metadata"
)

func open1(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func wantSetupError(t *testing.T, err error) {
	t.Helper()
	var setup *metadata.SetupError
	if !errors.As(err, &setup) || setup.Problem == "" || setup.Hint == "" {
		t.Fatalf("got %v, want a SetupError that says what to do", err)
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.db")
	s := open1(t, path)
	_, err := Open(t.Context(), path, Config{})
	wantSetupError(t, err)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open1(t, path)
}

func TestAReaderLooksOnBesideTheHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.db")
	_, err := OpenReader(t.Context(), path)
	wantSetupError(t, err)
	s := open1(t, path)
	if _, err := s.Join(t.Context(), metadata.Cluster{ID: metadata.UUID{1}, Incarnation: 1, Shards: 1, Format: 1}); err != nil {
		t.Fatal(err)
	}
	r, err := OpenReader(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := s.CreateTopic(t.Context(), metadata.Topic{Name: "t", Partitions: 1}, metadata.NoAgent); err != nil {
		t.Fatal(err)
	}
	if c, err := r.Catalog(t.Context(), 0); err != nil || len(c.Topics) != 1 {
		t.Fatalf("got %v, %v, want the topic that was just created", c, err)
	}
	if _, err := r.CreateTopic(t.Context(), metadata.Topic{Name: "u", Partitions: 1}, metadata.NoAgent); err == nil {
		t.Fatal("a reader wrote")
	}
}

func TestAfterCloseNothingIsReached(t *testing.T) {
	s := open1(t, filepath.Join(t.TempDir(), "m.db"))
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Watch(t.Context()); !errors.Is(err, metadata.ErrUnavailable) {
		t.Fatalf("got %v, want ErrUnavailable", err)
	}
}

func TestForeignFileIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.db")
	if err := os.WriteFile(path, []byte("this is no database, and it is long enough to be looked at"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), path, Config{})
	wantSetupError(t, err)
	_, err = Open(t.Context(), filepath.Join(path, "no", "folder"), Config{})
	wantSetupError(t, err)
}

func TestSchemaThatIsNotOursIsRefused(t *testing.T) {
	for name, change := range map[string]string{
		"newer":   `INSERT INTO schema_versions (version, name, checksum) VALUES (999, '0999_future.sql', 'x')`,
		"changed": `UPDATE schema_versions SET checksum='x' WHERE version=1`,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "m.db")
			if err := open1(t, path).Close(); err != nil {
				t.Fatal(err)
			}
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.Exec(change); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			_, err = Open(t.Context(), path, Config{})
			wantSetupError(t, err)
		})
	}
}

func TestGraceEndsByTheProcessClock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.db")
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(t.Context(), path, Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Join(t.Context(), metadata.Cluster{ID: metadata.UUID{1}, Incarnation: 1, Shards: 1, Format: 1}); err != nil {
			t.Fatal(err)
		}
		a := metadata.Agent{ID: 1}
		doomed := func(metadata.Ended) []string { return []string{"wal/orphan"} }
		for range 2 {
			if _, _, err := s.Start(t.Context(), a, 1, doomed, metadata.Grace{Orphan: time.Hour}); err != nil {
				t.Fatal(err)
			}
		}
		for _, step := range []struct {
			wait time.Duration
			dead int
		}{{time.Hour - time.Second, 0}, {2 * time.Second, 1}} {
			time.Sleep(step.wait) // virtual
			dead, err := s.Dead(t.Context(), 10)
			if err != nil || len(dead) != step.dead {
				t.Fatalf("after %v: got %v, %v, want %d tombstones", step.wait, dead, err, step.dead)
			}
		}
	})
}
