package s3server_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"varve.dev/localstack/s3server"
	"varve.dev/localstack/s3server/s3test"
)

func TestServerKeepsItsBucketsAndIsGoneAfterStop(t *testing.T) {
	first := s3test.Start(t)
	if first.Own == nil {
		t.Skip("SKIP the S3 server is not ours; unset VARVE_TEST_S3_ENDPOINT")
	}
	dir := t.TempDir()
	for range 2 { // the second finds the folder of the first
		s, err := s3server.Start(t.Context(), s3server.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.CreateBucket(t.Context(), "kept-bucket"); err != nil {
			t.Error(err)
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if _, err := http.Get(s.Endpoint); err == nil {
			t.Error("the server answers after Stop")
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "kept-bucket")); err != nil {
		t.Errorf("the bucket is gone: %v", err)
	}
}

func TestStartSaysWhyTheServerEnded(t *testing.T) {
	script := filepath.Join(t.TempDir(), "server")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho no extended attributes here\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := s3server.Start(t.Context(), s3server.Config{Dir: t.TempDir(), Binary: script})
	if err == nil || !strings.Contains(err.Error(), "no extended attributes here") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v, want the server's last words and its exit status", err)
	}
}

func TestStartGivesUpWithTheContext(t *testing.T) {
	script := filepath.Join(t.TempDir(), "server")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s3server.Start(ctx, s3server.Config{Dir: t.TempDir(), Binary: script}); err == nil {
		t.Error("a server that never listens was taken for one that does")
	}
}
