package storetest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"varve.dev/objectstore"
	"varve.dev/objectstore/s3api"
)

// S3Setup holds Open to its clear sentences against a real server, whose credentials are in the environment.
func S3Setup(t *testing.T, url objectstore.URL, traits Traits, open func(context.Context, s3api.Config) (objectstore.Store, error)) {
	expect := func(name, want string, url objectstore.URL) {
		t.Helper()
		_, err := open(t.Context(), s3api.Config{URL: url})
		var setup *objectstore.SetupError
		if !errors.As(err, &setup) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want a SetupError with %q", name, err, want)
		}
	}
	missing := url
	missing.Bucket = "no-such-bucket-here"
	expect("missing bucket", "the bucket does not exist", missing)
	elsewhere := url
	elsewhere.Region = "eu-north-9"
	if !traits.AnyRegion {
		expect("wrong region", "region", elsewhere)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	expect("wrong secret", "AWS_SECRET_ACCESS_KEY", url)
	t.Setenv("AWS_ACCESS_KEY_ID", "NOBODY")
	expect("unknown access key", "AWS_ACCESS_KEY_ID", url)
}
