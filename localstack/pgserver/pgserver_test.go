package pgserver_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"varve.dev/localstack/pgserver"
	"varve.dev/localstack/pgserver/pgtest"
	"varve.dev/metadata"
	"varve.dev/metadata/postgres"
)

func TestServerKeepsItsDataBetweenRuns(t *testing.T) {
	var shared pgtest.Shared
	shared.Database(t) // skips where there is none
	defer shared.Stop()
	base, err := os.MkdirTemp("", "pgserver") // reachable for the server's user
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(base)
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(base, "a folder with a name that is much longer than the name of a socket may be, which ends at 107 bytes")
	var topic metadata.Topic
	for life := range 2 {
		s, err := pgserver.Start(t.Context(), pgserver.Config{Dir: dir, TCP: true, Settings: map[string]string{"max_connections": "20"}})
		if err != nil {
			t.Fatal(err)
		}
		if life == 0 {
			if _, err := s.CreateDatabase(t.Context(), "m"); err != nil {
				t.Fatal(err)
			}
		}
		store, err := postgres.Open(t.Context(), s.TCPURL("m"), postgres.Config{})
		if err != nil {
			t.Fatal(err)
		}
		topic = metadata.Topic{ID: metadata.UUID{1}, Name: "t", Partitions: 1}
		if topic, err = store.CreateTopic(t.Context(), topic, metadata.NoAgent); err != nil {
			t.Fatal(err)
		}
		store.Close()
		if err := s.Restart(t.Context()); err == nil {
			t.Fatal("a running server was started again")
		}
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		if c, err := net.Dial("tcp", s.Address()); err == nil {
			c.Close()
			t.Fatal("it still listens after Stop")
		}
	}
	if topic.Num != 1 {
		t.Fatalf("got topic number %d in the second run, want the 1 of the first", topic.Num)
	}
}

func TestNoServerSaysHowToGetOne(t *testing.T) {
	t.Setenv("VARVE_PG_BIN", filepath.Join(t.TempDir(), "nothing"))
	if s, err := pgserver.Start(t.Context(), pgserver.Config{}); err == nil {
		s.Stop()
		t.Fatal("a server was started from an empty folder")
	}
}
