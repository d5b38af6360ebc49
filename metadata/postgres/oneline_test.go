package postgres_test

import (
	"errors"
	"strings"
	"testing"

	"varve.dev/metadata"
	"varve.dev/metadata/postgres"
)

// Nobody listens on port 1, of either address of localhost.
func TestAnUnreachableServerIsToldOfInOneLine(t *testing.T) {
	_, err := postgres.Open(t.Context(), "postgres://somebody:secret@127.0.0.1:1,[::1]:1/m?sslmode=prefer", postgres.Config{})
	var setup *metadata.SetupError
	if !errors.As(err, &setup) {
		t.Fatalf("got %v, want a SetupError", err)
	}
	text := err.Error()
	if strings.ContainsAny(text, "\n\t") || strings.Contains(text, "secret") {
		t.Errorf("want one line without the password, got %q", text)
	}
	for _, want := range []string{"the metadata database cannot be reached: start PostgreSQL, or correct host and port", "127.0.0.1:1", "refused"} {
		if !strings.Contains(text, want) {
			t.Errorf("got %q, want it to say %q", text, want)
		}
	}
}
