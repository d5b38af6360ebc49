package main

import (
	"context"
	"fmt"
	"path/filepath"

	"varve.dev/localstack/agentserver"
	"varve.dev/localstack/stack/compose"
)

// start brings up an agent on a kind of store, with what it needs. stop ends all of it, in order.
func start(ctx context.Context, store, program, dir string) (a *agentserver.Agent, stop func() error, err error) {
	switch store {
	case "file":
		a, err = agentserver.Start(ctx, agentserver.Config{Program: program, Log: filepath.Join(dir, "agent.log"),
			Args: []string{"dev", "--data", filepath.Join(dir, "data"), "--kafka", "127.0.0.1:0", "--http", "127.0.0.1:0"}})
		if err != nil {
			return nil, nil, err
		}
		return a, a.Stop, nil
	case "s3", "minio":
		s, err := compose.Start(ctx, compose.Config{Program: program, Dir: dir, Driver: store})
		if err != nil {
			return nil, nil, err
		}
		return s.Agent, s.Stop, nil
	}
	return nil, nil, fmt.Errorf("there is no store %q, want file, s3 or minio", store)
}
