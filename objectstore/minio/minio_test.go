package minio_test

import (
	"context"
	"testing"

	"varve.dev/localstack/s3server/s3test"
	"varve.dev/objectstore"
	"varve.dev/objectstore/minio"
	"varve.dev/objectstore/s3api"
	"varve.dev/objectstore/storetest"
)

func open(ctx context.Context, cfg s3api.Config) (objectstore.Store, error) {
	s, err := minio.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func TestDriver(t *testing.T) { storetest.S3Driver(t, objectstore.MinIO, open) }

func TestContractOnARealServer(t *testing.T) {
	server := s3test.Start(t)
	url := objectstore.URL{Scheme: objectstore.MinIO, Bucket: server.Bucket, Prefix: "of/minio", Endpoint: server.Endpoint, Region: server.Region, PathStyle: true}
	seaweed := server.Kind == "seaweedfs"
	traits := storetest.Traits{RefusesWrongChecksum: true, ListsByPart: seaweed, AnyRegion: seaweed}
	storetest.Run(t, func(t *testing.T) objectstore.Store {
		s, err := minio.Open(t.Context(), s3api.Config{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		return s
	}, traits)
	storetest.S3Setup(t, url, traits, open)
}
