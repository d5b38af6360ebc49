// Package s3test gives a test a real S3 server, or says why there is none.
package s3test

import (
	"os"
	"strings"
	"testing"

	"varve.dev/localstack/s3server"
)

// Server is an endpoint and the credentials for it, which are also in the test's environment.
type Server struct {
	Endpoint, Region string
	// Bucket exists.
	Bucket string
	// Kind is "versitygw", or what VARVE_TEST_S3_KIND says of a foreign server: suites know where "seaweedfs" differs.
	Kind string
	// Own is nil for a server that somebody else runs.
	Own *s3server.Server
}

// Start gives the server at VARVE_TEST_S3_ENDPOINT (with VARVE_TEST_S3_BUCKET and the usual AWS variables), else one of
// our own if VARVE_TEST_S3 or VARVE_TEST_ALL is set, else skips. The test must not be parallel: it gets an environment.
func Start(t *testing.T) Server {
	t.Helper()
	if endpoint := os.Getenv("VARVE_TEST_S3_ENDPOINT"); endpoint != "" {
		return foreign(t, endpoint)
	}
	if os.Getenv("VARVE_TEST_S3") == "" && os.Getenv("VARVE_TEST_ALL") == "" {
		t.Skip("SKIP needs an S3 server: run `make test-all`, or set VARVE_TEST_S3=1 to build and start versitygw")
	}
	own, err := s3server.Start(t.Context(), s3server.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := own.Stop(); err != nil {
			t.Error(err)
		}
	})
	const bucket = "varve-test"
	if err := own.CreateBucket(t.Context(), bucket); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", own.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", own.SecretKey)
	t.Setenv("AWS_SESSION_TOKEN", "")
	return Server{Endpoint: own.Endpoint, Region: s3server.Region, Bucket: bucket, Kind: "versitygw", Own: own}
}

func foreign(t *testing.T, endpoint string) Server {
	t.Helper()
	s := Server{Endpoint: endpoint, Region: os.Getenv("AWS_REGION"), Bucket: os.Getenv("VARVE_TEST_S3_BUCKET"), Kind: os.Getenv("VARVE_TEST_S3_KIND")}
	if s.Region == "" {
		s.Region = s3server.Region
	}
	var missing []string
	for _, name := range []string{"VARVE_TEST_S3_BUCKET", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		if os.Getenv(name) == "" {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		t.Fatalf("VARVE_TEST_S3_ENDPOINT is set, but not %s", strings.Join(missing, ", "))
	}
	return s
}
