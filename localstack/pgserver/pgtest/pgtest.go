// Package pgtest gives tests a database each, on one private server for the whole test binary.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"
	"testing"

	"varve.dev/localstack/pgserver"
	"varve.dev/metadata/postgres"
)

// Shared is the server of one test binary. Its Stop belongs into TestMain.
type Shared struct {
	mu     sync.Mutex
	server *pgserver.Server
	failed error
	count  int
	told   sync.Once
}

const howTo = "set VARVE_TEST_PG=1 to run against a private PostgreSQL (Debian's postgresql-15, or VARVE_PG_BIN), or " +
	"VARVE_TEST_PG_URL to use a server of your own"

// Database answers the URL of a new, empty database. It skips the test unless VARVE_TEST_PG, VARVE_TEST_ALL or
// VARVE_TEST_PG_URL is set; then a missing server is a failure.
func (s *Shared) Database(t testing.TB) string {
	t.Helper()
	own := os.Getenv("VARVE_TEST_PG_URL")
	if own == "" && os.Getenv("VARVE_TEST_PG") != "1" && os.Getenv("VARVE_TEST_ALL") != "1" {
		s.told.Do(func() { t.Log(howTo) }) // one line, however many tests
		t.SkipNow()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	name := fmt.Sprintf("t%d_%d", os.Getpid(), s.count)
	url, err := s.create(t.Context(), own, name)
	if err != nil {
		t.Fatal(err)
	}
	return url
}

func (s *Shared) create(ctx context.Context, own, name string) (string, error) {
	if own != "" {
		return createOn(ctx, own, name)
	}
	if s.server == nil && s.failed == nil {
		s.server, s.failed = pgserver.Start(context.WithoutCancel(ctx), pgserver.Config{FsyncOff: true})
	}
	if s.failed != nil {
		return "", s.failed
	}
	return s.server.CreateDatabase(ctx, name)
}

// createOn creates a database on a server of the user's own.
func createOn(ctx context.Context, server, name string) (string, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme == "" {
		return "", errors.Join(errors.New("VARVE_TEST_PG_URL must be a URL, postgres://…"), err)
	}
	if err := postgres.CreateDatabase(ctx, server, name); err != nil {
		return "", err
	}
	u.Path = "/" + name
	return u.String(), nil
}

// Stop stops the server, if one was started.
func (s *Shared) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		return nil
	}
	return s.server.Stop()
}
