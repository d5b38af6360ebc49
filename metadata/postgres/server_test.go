package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"varve.dev/localstack/pgserver"
	"varve.dev/metadata"
	"varve.dev/metadata/metatest"
	"varve.dev/metadata/postgres"
)

var ctx = context.Background()

func start(t *testing.T, s *postgres.Store) metadata.Session {
	t.Helper()
	if _, err := s.Join(t.Context(), metadata.Cluster{ID: metadata.UUID{1}, Incarnation: 1, Shards: 1, Format: 1}); err != nil {
		t.Fatal(err)
	}
	me, _, err := s.Start(t.Context(), metadata.Agent{ID: 1}, 1, nil, metadata.Grace{})
	if err != nil {
		t.Fatal(err)
	}
	return me
}

func flush(from int64, key string, directory int) metadata.Commit {
	return metadata.Commit{From: from, Objects: []metadata.WALObject{{
		Object: metadata.Object{Key: key, Length: 1}, Directory: make([]byte, directory)}}}
}

func exec(t *testing.T, url, sql string) {
	t.Helper()
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, sql); err != nil {
		t.Fatal(err)
	}
}

func wantSetupError(t *testing.T, err error, says string) {
	t.Helper()
	var setup *metadata.SetupError
	if !errors.As(err, &setup) || setup.Hint == "" || !strings.Contains(setup.Problem, says) {
		t.Fatalf("got %v, want a SetupError that says %q and what to do", err, says)
	}
}

// ranges of a directory cost about 20 bytes each.
const rangeSize = 20

func TestAFlushIsOneStatementWhateverItsSize(t *testing.T) {
	var rec metatest.Recorder
	s := open(t, server.Database(t), postgres.Config{Trace: rec.Trace})
	me := start(t, s)
	want, err := os.ReadFile(filepath.Join("testdata", "flush_commit.sql"))
	if err != nil {
		t.Fatal(err)
	}
	var many []metadata.PartitionID
	for i := range int32(1000) {
		many = append(many, metadata.PartitionID{Topic: 1, Partition: i})
	}
	several := flush(2, "w/3", rangeSize)
	several.Objects = append(several.Objects, flush(0, "w/4", rangeSize).Objects...)
	several.Release = many
	for i, c := range []metadata.Commit{flush(0, "w/1", rangeSize), flush(1, "w/2", 1000*rangeSize), several} {
		rec.Take()
		if err := s.Commit(ctx, me, c); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(rec.Take(), "\n---\n") + "\n"
		if d := cmp.Diff(string(want), got); d != "" {
			t.Errorf("commit %d: the statements differ from testdata/flush_commit.sql (-want +got):\n%s", i, d)
		}
	}
}

func TestAWindowOfOffsetsIsOneStatement(t *testing.T) {
	var rec metatest.Recorder
	s := open(t, server.Database(t), postgres.Config{Trace: rec.Trace})
	me := start(t, s)
	leases, err := s.AcquireShards(ctx, me, []int32{0})
	if err != nil {
		t.Fatal(err)
	}
	rec.Take()
	if _, err := s.Write(ctx, me, metadata.GroupWrite{Leases: leases, Counter: 1, Offsets: []metadata.GroupOffset{
		{Group: "a"}, {Group: "b"}}}); err != nil {
		t.Fatal(err)
	}
	if got := rec.Take(); len(got) != 1 {
		t.Fatalf("got %d statements, want 1: %v", len(got), got)
	}
}

func TestAConnectionWhoseContextEndedLateIsNotUsedAgain(t *testing.T) {
	s := open(t, server.Database(t), postgres.Config{MaxConns: 1})
	me := start(t, s)
	if err := s.LookCancelledLate(ctx); err != nil {
		t.Fatalf("got %v, want success: the reply had come", err)
	}
	if err := s.Stop(ctx, me); err != nil {
		t.Fatalf("the next statement: %v", err)
	}
}

// relay stands between a store and its server. Held, it keeps the server's answers to itself.
type relay struct {
	listener net.Listener
	mu       sync.Mutex
	conns    []net.Conn
	accepted int
	held     chan struct{} // closed: answers pass
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := make(chan struct{})
	close(open)
	r := &relay{listener: l, held: open}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			backend, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			r.mu.Lock()
			r.accepted++
			r.conns = append(r.conns, client, backend)
			r.mu.Unlock()
			done.Go(func() { io.Copy(backend, client); backend.Close() })
			done.Go(func() { r.answers(client, backend); client.Close() })
		}
	})
	t.Cleanup(func() {
		l.Close()
		r.mu.Lock()
		for _, c := range r.conns {
			c.Close()
		}
		r.mu.Unlock()
		r.hold(false)
		done.Wait()
	})
	return r
}

func (r *relay) answers(client, backend net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := backend.Read(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		gate := r.held
		r.mu.Unlock()
		<-gate
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (r *relay) hold(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if on {
		r.held = make(chan struct{})
		return
	}
	select {
	case <-r.held:
	default:
		close(r.held)
	}
}

func (r *relay) connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.accepted
}

// ownServer starts a server for tests that must break it.
func ownServer(t *testing.T, cfg pgserver.Config) *pgserver.Server {
	t.Helper()
	server.Database(t) // skips where there is none
	s, err := pgserver.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestLostReplies(t *testing.T) {
	srv := ownServer(t, pgserver.Config{TCP: true, FsyncOff: true})
	if _, err := srv.CreateDatabase(t.Context(), "m"); err != nil {
		t.Fatal(err)
	}
	r := newRelay(t, srv.Address())
	direct := open(t, srv.URL("m"), postgres.Config{})
	me := start(t, direct)
	s := open(t, "postgres://postgres@"+r.listener.Addr().String()+"/m?sslmode=disable",
		postgres.Config{MaxConns: 1, Timeout: 300 * time.Millisecond})
	commit := func(from int64) error { return s.Commit(ctx, me, flush(from, fmt.Sprintf("w/%d", from), 10)) }
	if err := commit(0); err != nil { // the statement is prepared now
		t.Fatal(err)
	}

	t.Run("a commit whose reply is late is unknown, and settled by a write", func(t *testing.T) {
		before := r.connections()
		r.hold(true)
		if err := commit(1); !errors.Is(err, metadata.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want ErrUnknown by the deadline", err)
		}
		r.hold(false)
		last, err := s.Settle(ctx, me, 1, 2)
		if err != nil || last != 2 {
			t.Fatalf("got %d, %v, want 2: it had been executed", last, err)
		}
		if got := r.connections() - before; got != 1 {
			t.Fatalf("got %d new connections, want only the one that replaced the closed one: a cancel request comes on its own", got)
		}
	})
	t.Run("a caller that gives up leaves the same behind", func(t *testing.T) {
		short, cancel := context.WithCancel(ctx)
		r.hold(true)
		time.AfterFunc(20*time.Millisecond, cancel)
		if err := s.Beat(short, me, 0); !errors.Is(err, metadata.ErrUnknown) || !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want ErrUnknown by the caller", err)
		}
		r.hold(false)
	})
	t.Run("a read whose reply is late has surely done nothing", func(t *testing.T) {
		if _, err := s.Watch(ctx); err != nil {
			t.Fatal(err)
		}
		r.hold(true)
		if _, err := s.Watch(ctx); !errors.Is(err, metadata.ErrUnavailable) {
			t.Fatalf("got %v, want ErrUnavailable", err)
		}
		r.hold(false)
	})
	t.Run("nor has a transaction that was not yet to be committed", func(t *testing.T) {
		if _, err := s.Watch(ctx); err != nil {
			t.Fatal(err)
		}
		r.hold(true)
		if err := s.Intend(ctx, me, []string{"k"}); !errors.Is(err, metadata.ErrUnavailable) {
			t.Fatalf("got %v, want ErrUnavailable", err)
		}
		r.hold(false)
		inv, err := direct.Referenced(ctx)
		if err != nil || len(inv.Intents) != 0 {
			t.Fatalf("got intents %v, %v, want none", inv.Intents, err)
		}
	})
	t.Run("a server that is away is unavailable, and back without help", func(t *testing.T) {
		r.mu.Lock()
		for _, c := range r.conns {
			c.Close()
		}
		r.mu.Unlock()
		if err := srv.Kill(); err != nil {
			t.Fatal(err)
		}
		err := commit(2)
		if errors.Is(err, metadata.ErrUnknown) { // on a connection that it still believed in
			err = commit(2)
		}
		if !errors.Is(err, metadata.ErrUnavailable) {
			t.Fatalf("got %v, want ErrUnavailable", err)
		}
		if err := srv.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		if err := commit(2); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAWarningOnACommitIsALostReply(t *testing.T) {
	url := server.Database(t)
	s := open(t, url, postgres.Config{})
	me := start(t, s)
	exec(t, url, `CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'it may not be replicated'; RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER warn AFTER UPDATE ON sessions DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION warn();
		CREATE CONSTRAINT TRIGGER warn AFTER INSERT ON uploads DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION warn()`)
	for what, err := range map[string]error{
		"statement":   s.Commit(ctx, me, flush(0, "w", 1)),
		"transaction": s.Intend(ctx, me, []string{"k"}),
	} {
		if !errors.Is(err, metadata.ErrUnknown) {
			t.Errorf("%s: got %v, want ErrUnknown", what, err)
		}
	}
	exec(t, url, `DROP FUNCTION warn CASCADE`)
	if last, err := s.Settle(ctx, me, 0, 1); err != nil || last != 1 {
		t.Fatalf("got %d, %v, want 1", last, err)
	}
}

func TestARollbackInFavourOfAnotherIsRepeated(t *testing.T) {
	url := server.Database(t)
	s := open(t, url, postgres.Config{})
	me := start(t, s)
	exec(t, url, `CREATE SEQUENCE tries;
		CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF nextval('tries') % 3 <> 0 THEN RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'; END IF; RETURN NEW; END $$;
		CREATE TRIGGER fail BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION fail();
		CREATE TRIGGER fail BEFORE INSERT ON uploads FOR EACH ROW EXECUTE FUNCTION fail()`)
	if err := errors.Join(s.Commit(ctx, me, flush(0, "w", 1)), s.Intend(ctx, me, []string{"k"})); err != nil {
		t.Fatal(err)
	}
	exec(t, url, `CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'; END $$`)
	if err := s.Commit(ctx, me, flush(1, "x", 1)); !errors.Is(err, metadata.ErrUnavailable) {
		t.Fatalf("got %v, want ErrUnavailable after some attempts", err)
	}
}

func TestSettingsAreDemanded(t *testing.T) {
	url := server.Database(t)
	_, err := postgres.Open(ctx, url, postgres.Config{})
	wantSetupError(t, err, "fsync=off")

	exec(t, url, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database());
		EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''serializable''', current_database()); END $$`)
	s := open(t, url, postgres.Config{})
	me := start(t, s)
	exec(t, url, `CREATE FUNCTION demand() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF current_setting('synchronous_commit') <> 'on' OR current_setting('transaction_isolation') <> 'read committed'
			THEN RAISE EXCEPTION 'unsafe'; END IF; RETURN NEW; END $$;
		CREATE TRIGGER demand BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION demand()`)
	if err := s.Commit(ctx, me, flush(0, "w", 1)); err != nil {
		t.Fatal(err)
	}

	exec(t, url, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$`)
	_, err = postgres.Open(ctx, url, postgres.Config{AllowFsyncOff: true})
	wantSetupError(t, err, "read-only")
}

func TestAnotherDatabaseIsRefused(t *testing.T) {
	for says, change := range map[string]string{
		"timeline":        `UPDATE cluster SET store_timeline = store_timeline + 1`,
		"system":          `UPDATE cluster SET store_system = '1'`,
		"row is gone":     `DELETE FROM cluster`,
		"tables are gone": `DROP TABLE cluster`,
		"another cluster": `UPDATE cluster SET id = '\x00'`,
	} {
		t.Run(says, func(t *testing.T) {
			url := server.Database(t)
			s := open(t, url, postgres.Config{MaxConns: 1})
			me := start(t, s)
			s2 := open(t, url, postgres.Config{}) // has seen the cluster at its first connection
			exec(t, url, change)
			exec(t, url, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname=current_database() AND pid<>pg_backend_pid()`)
			err := s2.Beat(ctx, me, 0)
			for i := 0; !errors.As(err, new(*metadata.SetupError)) && i < 3; i++ { // it learns of the end by writing
				err = s2.Beat(ctx, me, 0)
			}
			wantSetupError(t, err, says)
			if !errors.Is(err, metadata.ErrUnavailable) {
				t.Fatalf("got %v, want it to be ErrUnavailable as well", err)
			}
		})
	}
}

func TestWhatCannotBeOpenedSaysWhy(t *testing.T) {
	url := server.Database(t)
	for says, bad := range map[string]string{
		"cannot be read":    "postgres://%zz",
		"cannot be reached": "postgres://127.0.0.1:1/m?sslmode=disable",
		"does not exist":    strings.Replace(url, "/t", "/nothing_", 1),
		"credentials":       strings.Replace(url, "user=postgres", "user=nobody_at_all", 1),
	} {
		_, err := postgres.Open(ctx, bad, postgres.Config{AllowFsyncOff: true})
		wantSetupError(t, err, says)
	}
	open(t, url, postgres.Config{})
	exec(t, url, `INSERT INTO schema_versions (version, name, checksum) VALUES (999, '0999_future.sql', 'x')`)
	_, err := postgres.Open(ctx, url, postgres.Config{AllowFsyncOff: true})
	wantSetupError(t, err, "version")
}

func TestOneAgentMigrates(t *testing.T) {
	url := server.Database(t)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			s, err := postgres.Open(ctx, url, postgres.Config{AllowFsyncOff: true, MaxConns: 1})
			if err != nil {
				t.Error(err)
				return
			}
			s.Close()
		})
	}
	all.Wait()
}

func TestACrashKeepsWhatWasAcknowledged(t *testing.T) {
	srv := ownServer(t, pgserver.Config{})
	url, err := srv.CreateDatabase(ctx, "m")
	if err != nil {
		t.Fatal(err)
	}
	s, err := postgres.Open(ctx, url, postgres.Config{}) // with every safe setting
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	me := start(t, s)
	acked := make(chan int64)
	go func() {
		defer close(acked)
		for n := int64(0); ; n++ {
			if s.Commit(ctx, me, flush(n, fmt.Sprintf("w/%d", n), 100)) != nil {
				return
			}
			acked <- n + 1
		}
	}()
	last := int64(0)
	killed := make(chan error, 1)
	for n := range acked {
		if last = n; n == 50 {
			go func() { killed <- srv.Kill() }()
		}
	}
	if err := <-killed; err != nil {
		t.Fatal(err)
	}
	if err := srv.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	var got int64
	for range 3 { // old connections first learn that they are gone
		if got, err = s.Settle(ctx, me, last, last+1); err == nil {
			break
		}
	}
	if err != nil || got < last {
		t.Fatalf("got %d, %v, want at least %d", got, err, last)
	}
}

func TestAPausedServerIsUnknownThenBack(t *testing.T) {
	srv := ownServer(t, pgserver.Config{FsyncOff: true})
	url, err := srv.CreateDatabase(ctx, "m")
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, url, postgres.Config{MaxConns: 1, Timeout: 300 * time.Millisecond})
	me := start(t, s)
	if err := s.Beat(ctx, me, 0); err != nil {
		t.Fatal(err)
	}
	if err := srv.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := s.Beat(ctx, me, 0); !errors.Is(err, metadata.ErrUnknown) {
		t.Errorf("got %v, want ErrUnknown", err)
	}
	if err := srv.Continue(); err != nil {
		t.Fatal(err)
	}
	if err := s.Beat(ctx, me, 0); err != nil {
		t.Fatal(err)
	}
}

func TestDirectoriesAreStoredUncompressed(t *testing.T) {
	url := server.Database(t)
	open(t, url, postgres.Config{})
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	var storage string
	if err := c.QueryRow(ctx, `SELECT attstorage::text FROM pg_attribute WHERE attrelid='objects'::regclass AND attname='directory'`).
		Scan(&storage); err != nil || storage != "e" {
		t.Fatalf("got storage %q, %v, want e (external)", storage, err)
	}
}
