package postgres_test

import (
	"fmt"
	"os"
	"testing"

	"varve.dev/localstack/pgserver/pgtest"
	"varve.dev/metadata"
	"varve.dev/metadata/metatest"
	"varve.dev/metadata/postgres"
)

var server pgtest.Shared

func TestMain(m *testing.M) {
	code := m.Run()
	if err := server.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func open(t *testing.T, url string, cfg postgres.Config) *postgres.Store {
	t.Helper()
	cfg.AllowFsyncOff = true
	s, err := postgres.Open(t.Context(), url, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestContract(t *testing.T) {
	server.Database(t) // one line says how, where there is no server
	metatest.Run(t, func(t *testing.T) metadata.Store { return open(t, server.Database(t), postgres.Config{}) })
}
