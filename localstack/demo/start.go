package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"

	"varve.dev/agent/config"
	"varve.dev/localstack/pgserver"
	"varve.dev/localstack/s3server"
)

// start brings up an agent on a kind of store, with what it needs. stop ends all of it, in order.
func start(ctx context.Context, store, program, dir string) (a *agent, stop func() error, err error) {
	switch store {
	case "file":
		a, err = startAgent(ctx, program, dir, nil, "dev", "--data", filepath.Join(dir, "data"), "--kafka", "127.0.0.1:0", "--http", "127.0.0.1:0")
		if err != nil {
			return nil, nil, err
		}
		return a, a.stop, nil
	case "s3", "minio":
		return startRemote(ctx, store, program, dir)
	}
	return nil, nil, fmt.Errorf("there is no store %q, want file, s3 or minio", store)
}

const bucket = "varve-demo"

// startRemote brings up Postgres and an S3 server, and an agent on them.
func startRemote(ctx context.Context, scheme, program, dir string) (a *agent, stop func() error, err error) {
	var started []func() error
	stop = func() error {
		var errs error
		for i := len(started) - 1; i >= 0; i-- {
			errs = errors.Join(errs, started[i]())
		}
		return errs
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stop())
		}
	}()
	s3, err := s3server.Start(ctx, s3server.Config{Dir: filepath.Join(dir, "s3")})
	if err != nil {
		return nil, nil, err
	}
	started = append(started, s3.Stop)
	if err := s3.CreateBucket(ctx, bucket); err != nil {
		return nil, nil, err
	}
	postgres, err := pgserver.Start(ctx, pgserver.Config{}) // as durable as any: the agent refuses less
	if err != nil {
		return nil, nil, err
	}
	started = append(started, postgres.Stop)
	database, err := postgres.CreateDatabase(ctx, "varve_demo")
	if err != nil {
		return nil, nil, err
	}
	storeURL := url.URL{Scheme: scheme, Host: bucket, Path: "/demo", RawQuery: url.Values{
		"endpoint": {s3.Endpoint}, "region": {s3server.Region}, "path-style": {"true"},
	}.Encode()}
	args := []string{"agent"}
	for _, set := range append(config.DevDefaults(), "data.dir="+filepath.Join(dir, "data"), "metadata.url="+database, "store.url="+storeURL.String(),
		"listeners=PLAINTEXT://127.0.0.1:0", "http.listen=127.0.0.1:0") {
		args = append(args, "--set", set)
	}
	a, err = startAgent(ctx, program, dir, []string{"AWS_ACCESS_KEY_ID=" + s3.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s3.SecretKey}, args...)
	if err != nil {
		return nil, nil, err
	}
	started = append(started, a.stop)
	return a, stop, nil
}
