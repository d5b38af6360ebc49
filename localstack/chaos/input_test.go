package chaos

import (
	"database/sql"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "varve.dev/metadata/sqlite" // registers the driver

	"varve.dev/localstack/pgserver/pgtest"
	"varve.dev/localstack/s3server/s3test"
)

// TestBadInput: each mistake ends the agent with one clear sentence and a non-zero exit code, and loses nothing.
func TestBadInput(t *testing.T) {
	program := build(t)
	fresh := func(t *testing.T) *world { return embedded(t, program) }
	// lived has been used: it has records, and its agent is stopped.
	lived := func(t *testing.T) *world {
		w := fresh(t)
		a := w.mustStart(t)
		f := newFew(t, w.kafka)
		f.send(f.topic("orders", 1, nil), 0, -1, 5)
		if err := a.stop(); err != nil {
			t.Fatal(err)
		}
		return w
	}
	for _, bad := range []struct {
		name  string
		world func(t *testing.T) *world
		want  []string
	}{
		{"an unreachable PostgreSQL", func(t *testing.T) *world {
			return fresh(t).with("metadata.url=postgres://varve:secret@127.0.0.1:1/varve")
		}, []string{"cannot be reached", "metadata.url"}},
		{"a metadata.url of no kind", func(t *testing.T) *world { return fresh(t).with("metadata.url=mysql://x/y") }, []string{"metadata.url", "postgres://"}},
		{"a metadata file that is none", func(t *testing.T) *world {
			w := fresh(t)
			write(t, strings.TrimPrefix(w.get("metadata.url"), "sqlite:"), strings.Repeat("this is no database. ", 1000))
			return w
		}, []string{"metadata.db", "not a database"}},
		{"a schema of the future", func(t *testing.T) *world {
			w := lived(t)
			db, err := sql.Open("sqlite", strings.TrimPrefix(w.get("metadata.url"), "sqlite:"))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.Exec(`INSERT INTO schema_versions (version, name, checksum) VALUES (1000, 'future', 'x')`); err != nil {
				t.Fatal(err)
			}
			return w
		}, []string{"schema", "newer"}},
		{"the folder of another cluster", func(t *testing.T) *world { return fresh(t).with("data.dir=" + lived(t).get("data.dir")) },
			[]string{"data.dir", "belongs to cluster"}},
		{"the objects of another cluster", func(t *testing.T) *world { return fresh(t).with("store.url=" + lived(t).get("store.url")) },
			[]string{"belongs to another cluster", "another bucket or prefix"}},
		{"an object store that has moved", func(t *testing.T) *world { return lived(t).with("store.url=file://" + t.TempDir()) },
			[]string{"does not hold the objects of cluster", "store.url"}},
		{"an object store that is a file", func(t *testing.T) *world {
			path := filepath.Join(t.TempDir(), "file")
			write(t, path, "x")
			return fresh(t).with("store.url=file://" + path)
		}, []string{"file"}},
		{"a data.dir that is a file", func(t *testing.T) *world {
			path := filepath.Join(t.TempDir(), "file")
			write(t, path, "x")
			return fresh(t).with("data.dir=" + path)
		}, []string{"data.dir"}},
		{"an unreachable S3 server", func(t *testing.T) *world {
			t.Setenv("AWS_ACCESS_KEY_ID", "x")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "x")
			return fresh(t).with("store.url=s3://bucket?endpoint=http://127.0.0.1:1&region=us-east-1&path-style=true")
		}, []string{"127.0.0.1:1"}},
		{"a port that is taken", func(t *testing.T) *world {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			w := fresh(t)
			w.kafka = l.Addr().String()
			return w
		}, []string{"address already in use"}},
		{"an unknown key", func(t *testing.T) *world { return fresh(t).with("flush.intervall.ms=5") }, []string{"flush.intervall.ms", "flush.interval.ms"}},
		{"a value out of range", func(t *testing.T) *world { return fresh(t).with("flush.bytes=1") }, []string{"flush.bytes", "65536"}},
		{"a journal too small for its files", func(t *testing.T) *world { return fresh(t).with("journal.bytes=3145728", "journal.file.bytes=2097152") },
			[]string{"journal.bytes", "journal.file.bytes"}},
		{"a store.url of no kind", func(t *testing.T) *world { return fresh(t).with("store.url=ftp://x/y") }, []string{"store.url"}},
		{"a plain listener for everybody", func(t *testing.T) *world { return fresh(t).with("http.listen=0.0.0.0:0") }, []string{"listeners.insecure.allow"}},
	} {
		t.Run(bad.name, func(t *testing.T) { refused(t, bad.world(t), bad.want...) })
	}
}

// TestBadInputOfS3: what only a real server can refuse.
func TestBadInputOfS3(t *testing.T) {
	program := build(t)
	s3 := s3test.Start(t)
	at := func(driver, bucket string) string {
		query := url.Values{"endpoint": {s3.Endpoint}, "region": {s3.Region}, "path-style": {"true"}}
		u := url.URL{Scheme: driver, Host: bucket, Path: "/" + filepath.Base(t.TempDir()), RawQuery: query.Encode()}
		return "store.url=" + u.String()
	}
	for _, driver := range []string{"s3", "minio"} {
		t.Run(driver, func(t *testing.T) {
			t.Run("a missing bucket", func(t *testing.T) {
				refused(t, embedded(t, program).with(at(driver, "no-such-bucket")), "no-such-bucket")
			})
			t.Run("a wrong secret", func(t *testing.T) {
				t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
				refused(t, embedded(t, program).with(at(driver, s3.Bucket)), "AWS_SECRET_ACCESS_KEY")
			})
			t.Run("an unknown key", func(t *testing.T) {
				t.Setenv("AWS_ACCESS_KEY_ID", "nobody")
				refused(t, embedded(t, program).with(at(driver, s3.Bucket)), "AWS_ACCESS_KEY_ID")
			})
		})
	}
}

// TestBadInputOfPostgreSQL: what only a real server can refuse.
func TestBadInputOfPostgreSQL(t *testing.T) {
	var pg pgtest.Shared
	t.Cleanup(func() {
		if err := pg.Stop(); err != nil {
			t.Error(err)
		}
	})
	good, program := pg.Database(t), build(t)
	w := embedded(t, program)
	t.Run("a server that may forget", func(t *testing.T) {
		refused(t, w.with("metadata.url="+good), "fsync")
	})
	t.Run("a missing database", func(t *testing.T) {
		u, err := url.Parse(good)
		if err != nil {
			t.Fatal(err)
		}
		u.Path = "/no-such-database"
		refused(t, w.with("metadata.url="+u.String()), "no-such-database")
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
