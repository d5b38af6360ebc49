package s3_test

import (
	"context"
	"testing"

	"varve.dev/localstack/s3server/s3test"
	"varve.dev/objectstore"
	"varve.dev/objectstore/s3"
	"varve.dev/objectstore/s3api"
	"varve.dev/objectstore/storetest"
)

func open(ctx context.Context, cfg s3api.Config) (objectstore.Store, error) {
	s, err := s3.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func TestDriver(t *testing.T) { storetest.S3Driver(t, objectstore.S3, open) }

func TestContractOnARealServer(t *testing.T) {
	server := s3test.Start(t)
	url := objectstore.URL{Scheme: objectstore.S3, Bucket: server.Bucket, Prefix: "of/s3", Endpoint: server.Endpoint, Region: server.Region, PathStyle: true}
	seaweed := server.Kind == "seaweedfs"
	traits := storetest.Traits{RefusesWrongChecksum: true, ListsByPart: seaweed, AnyRegion: seaweed}
	storetest.Run(t, func(t *testing.T) objectstore.Store {
		s, err := s3.Open(t.Context(), s3api.Config{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		return s
	}, traits)
	storetest.S3Setup(t, url, traits, open)
}
