package chaos

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"varve.dev/localstack/pgserver"
	"varve.dev/localstack/s3server"
)

// stores are a PostgreSQL and an S3 server of one test, which may stop them, and a proxy before the latter that keeps its
// address.
type stores struct {
	t     *testing.T
	pg    *pgserver.Server
	s3    *s3server.Server
	as    s3server.Config
	proxy *proxy
}

const outageBucket = "varve-test"

// newStores skips where servers are not wanted. A seed of 0 makes an honest proxy.
func newStores(t *testing.T, seed uint64) *stores {
	t.Helper()
	if os.Getenv("VARVE_TEST_ALL") == "" && (os.Getenv("VARVE_TEST_PG") == "" || os.Getenv("VARVE_TEST_S3") == "") {
		t.Skip("SKIP needs a PostgreSQL and an S3 server of its own: run `make test-all`, or set VARVE_TEST_PG=1 and VARVE_TEST_S3=1")
	}
	s := &stores{t: t, as: s3server.Config{Dir: t.TempDir(), AccessKey: rand.Text()[:20], SecretKey: rand.Text()}}
	var err error
	if s.pg, err = pgserver.Start(t.Context(), pgserver.Config{FsyncOff: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.pg.Continue(), s.pg.Stop()); err != nil {
			t.Error(err)
		}
	})
	s.startS3()
	t.Cleanup(s.stopS3)
	s.proxy = newProxy(t, s.s3.Endpoint, seed)
	t.Setenv("AWS_ACCESS_KEY_ID", s.as.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s.as.SecretKey)
	t.Setenv("AWS_SESSION_TOKEN", "")
	t.Setenv("VARVE_TEST_FSYNC_OFF", "1") // no power is cut here
	return s
}

func (s *stores) startS3() {
	s.t.Helper()
	var err error
	if s.s3, err = s3server.Start(s.t.Context(), s.as); err == nil {
		err = s.s3.CreateBucket(s.t.Context(), outageBucket)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stores) stopS3() {
	s.signalS3(syscall.SIGCONT)
	if err := s.s3.Stop(); err != nil {
		s.t.Error(err)
	}
}

func (s *stores) signalS3(sig syscall.Signal) {
	select {
	case <-s.s3.Done():
		return
	default:
	}
	if err := syscall.Kill(s.s3.Pid(), sig); err != nil {
		s.t.Error(err)
	}
}

// world is an agent's on these stores.
func (s *stores) world(program, driver string) *world {
	s.t.Helper()
	name := fmt.Sprintf("outage%d", time.Now().UnixNano())
	database, err := s.pg.CreateDatabase(s.t.Context(), name)
	if err != nil {
		s.t.Fatal(err)
	}
	bucket := func(endpoint string) string {
		query := url.Values{"endpoint": {endpoint}, "region": {s3server.Region}, "path-style": {"true"}}
		return "store.url=" + (&url.URL{Scheme: driver, Host: outageBucket, Path: "/" + name, RawQuery: query.Encode()}).String()
	}
	w := &world{program: program, kafka: freeAddress(s.t), settings: append(quick(),
		"data.dir="+filepath.Join(s.t.TempDir(), "local"), "metadata.url="+database, bucket(s.proxy.endpoint()))}
	if s.proxy.rng != nil {
		w.proof = []string{bucket(s.s3.Endpoint)}
	}
	return w
}
