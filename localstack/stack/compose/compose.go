// Package compose puts an agent in front of Postgres and an S3 server, each of them a process of this machine.
package compose

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"varve.dev/agent/config"
	"varve.dev/localstack/agentserver"
	"varve.dev/localstack/pgserver"
	"varve.dev/localstack/s3server"
)

// Config says what is put together. Program and Dir are required.
type Config struct {
	// Program is varve's file.
	Program string
	// Dir keeps the bucket, the agent's local data, its configuration and its log.
	Dir string
	// PostgresDir keeps the database; Postgres's own user must be able to reach it. Empty: a temporary folder.
	PostgresDir string
	// Driver is the scheme of the agent's store.url: s3 (the default) or minio.
	Driver string
	// Kafka and HTTP are the agent's addresses. Empty: free ports of the loopback interface.
	Kafka, HTTP string
	// Set are further key=value of the agent; the last one counts.
	Set []string
}

// Stack is what was started. Whoever starts one calls Stop.
type Stack struct {
	Agent    *agentserver.Agent
	S3       *s3server.Server
	Postgres *pgserver.Server

	DatabaseURL, StoreURL string
	// ConfigFile is what the agent runs with. It holds no secrets: those are in Env.
	ConfigFile string
	// Env are the bucket's credentials, in the variables that S3's clients read.
	Env []string
}

const (
	// Bucket is where the objects are.
	Bucket   = "varve-stack"
	database = "varve"
)

// Start returns when the agent serves. What was started ends again if anything fails.
func Start(ctx context.Context, cfg Config) (s *Stack, err error) {
	s = &Stack{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
			s = nil
		}
	}()
	if err := s.startStore(ctx, cfg); err != nil {
		return s, err
	}
	if err := s.startDatabase(ctx, cfg); err != nil {
		return s, err
	}
	return s, s.startAgent(ctx, cfg)
}

func (s *Stack) startStore(ctx context.Context, cfg Config) (err error) {
	if cfg.Driver == "" {
		cfg.Driver = "s3"
	}
	if s.S3, err = s3server.Start(ctx, s3server.Config{Dir: filepath.Join(cfg.Dir, "s3")}); err != nil {
		return err
	}
	s.Env = []string{"AWS_ACCESS_KEY_ID=" + s.S3.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s.S3.SecretKey}
	s.StoreURL = (&url.URL{Scheme: cfg.Driver, Host: Bucket, Path: "/log", RawQuery: url.Values{
		"endpoint": {s.S3.Endpoint}, "region": {s3server.Region}, "path-style": {"true"},
	}.Encode()}).String()
	return s.S3.CreateBucket(ctx, Bucket)
}

func (s *Stack) startDatabase(ctx context.Context, cfg Config) (err error) {
	// As durable as any: the agent refuses less.
	if s.Postgres, err = pgserver.Start(ctx, pgserver.Config{Dir: cfg.PostgresDir, TCP: true}); err != nil {
		return err
	}
	s.DatabaseURL = s.Postgres.TCPURL(database)
	_, err = s.Postgres.CreateDatabase(ctx, database)
	const duplicateDatabase = "42P04"
	if exists := (*pgconn.PgError)(nil); errors.As(err, &exists) && exists.Code == duplicateDatabase {
		return nil // kept from an earlier run
	}
	return err
}

func (s *Stack) startAgent(ctx context.Context, cfg Config) (err error) {
	const freePort = "127.0.0.1:0"
	keys := slices.Concat(config.DevDefaults(), []string{
		"data.dir=" + filepath.Join(cfg.Dir, "agent"),
		"metadata.url=" + s.DatabaseURL,
		"store.url=" + s.StoreURL,
		"listeners=PLAINTEXT://" + orDefault(cfg.Kafka, freePort),
		"http.listen=" + orDefault(cfg.HTTP, freePort),
	})
	s.ConfigFile = filepath.Join(cfg.Dir, "agent.conf")
	if err := os.WriteFile(s.ConfigFile, []byte(strings.Join(keys, "\n")+"\n"), 0o600); err != nil {
		return fmt.Errorf("write the agent's configuration: %w", err)
	}
	args := []string{"agent", "--config", s.ConfigFile}
	for _, set := range cfg.Set {
		args = append(args, "--set", set)
	}
	s.Agent, err = agentserver.Start(ctx, agentserver.Config{Program: cfg.Program, Args: args, Env: s.Env, Log: filepath.Join(cfg.Dir, "agent.log")})
	return err
}

func orDefault(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// Stop ends what runs, each after what needs it.
func (s *Stack) Stop() error {
	var errs []error
	if s.Agent != nil {
		errs = append(errs, s.Agent.Stop())
	}
	if s.Postgres != nil {
		errs = append(errs, s.Postgres.Stop())
	}
	if s.S3 != nil {
		errs = append(errs, s.S3.Stop())
	}
	return errors.Join(errs...)
}
